"""What predicts: a finished run, or an ensemble of runs whose probabilities or scores are averaged.

A folder is first looked at, which is quick and tells everything about its tasks, and then loaded. A run is the case of one
run that has a say in every task.
"""

import hashlib
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlcli.config.schema import Config
from mtlcli.data.splits import Split
from mtlcli.data.tokens import Tokenizer, tokenize_split
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import TaskFacts
from mtlcli.model.predict import Predicted, predict_rows
from mtlcli.runs import ensemble, saved_model
from mtlcli.runs.ensemble import EnsembleMember, read_member
from mtlcli.runs.names import ENSEMBLE
from mtlcli.runs.record import check_installed, stored_config, unfinished_note
from mtlcli.runs.saved_model import SavedRun


@dataclass(frozen=True)
class LoadedMember:
    """A run that has a say in a task, and its own index of that task."""

    run: SavedRun
    task: int

    @property
    def encoding(self) -> str:
        """How this run reads the task's texts: single, cross or bi."""
        return self.run.config.tasks[self.run.facts[self.task].name].encoding or "single"


@dataclass(frozen=True)
class Predictor:
    """A run or an ensemble, loaded: its tasks in order, and the members of each; none of a task that was not asked for."""

    folder: Path
    facts: tuple[TaskFacts, ...]
    members: tuple[tuple[LoadedMember, ...], ...]

    def joined(self, task: int, votes: Sequence[Predicted]) -> Predicted:
        """What a task's members say of the same rows, in the members' order -> what all of them say, classes as in `facts`."""
        labels = self.facts[task].labels
        pairs = zip(votes, self.members[task], strict=True)
        named = [in_order(vote, member.run.facts[member.task].labels, labels) for vote, member in pairs]
        return average(named, None if labels is None else len(labels))

    def on_split(
        self, task: int, split: Split, device: torch.device, autocast: AbstractContextManager[object]
    ) -> Predicted:
        """Predictions for the rows of a split, which each member reads with its own tokenizer and encoding; loss is NaN."""
        votes = []
        for member in self.members[task]:
            tokenizer = Tokenizer(member.run.encoder.tokenizer, member.run.config.encoder.max_length)
            tokenized = replace(tokenize_split(split, tokenizer, member.encoding, None), targets=None)
            votes.append(predict_rows(member.run.model, member.task, tokenized, device, autocast))
        return self.joined(task, votes)


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run or an ensemble before any weights are read. `title` says which weights these are; `members` holds
    for each task, in the order of `facts`, the numbers of the runs that have a say in it."""

    folder: Path
    title: str
    facts: tuple[TaskFacts, ...]
    runs: tuple[EnsembleMember, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def notes(self) -> list[str]:
        """A sentence about each run that has not finished."""
        notes = (unfinished_note(run.folder, run.record) for run in self.runs)
        return [note for note in notes if note is not None]

    @property
    def record(self) -> dict[str, Any]:
        """`tasks` as in run.json: how each is read, by the first run that has a say in it."""
        first = {facts.name: self.runs[members[0]] for facts, members in zip(self.facts, self.members, strict=True)}
        return {"tasks": {name: run.record["tasks"][name] for name, run in first.items()}}

    def task(self, name: str) -> int:
        """Index of a task. Raises MtlError naming the tasks there are."""
        names = [facts.name for facts in self.facts]
        if name not in names:
            raise MtlError(f'{self.folder}: no task "{name}"{suggest(name, names)}')
        return names.index(name)

    def config(self, task: int) -> Config:
        """The configuration that says where a task's rows are: that of the first run that has a say in it."""
        return stored_config(self.runs[self.members[task][0]].record)

    def fingerprint(self, task: int) -> str:
        """Changes whenever the task could be predicted otherwise: with any file of any of its runs."""
        return hashlib.sha256("\0".join(self.runs[index].digest for index in self.members[task]).encode()).hexdigest()

    def check_installed(self) -> None:
        """Raises MtlError where a distribution that a run needs is gone."""
        for run in self.runs:
            check_installed(run.record)

    def load(self, device: torch.device, tasks: Collection[int] | None = None) -> tuple[Predictor, list[str]]:
        """The models on a device, and warnings; with `tasks`, those alone that have a say in them. Raises MtlError for what is
        missing or damaged."""
        wanted = [members if tasks is None or task in tasks else () for task, members in enumerate(self.members)]
        found, warnings = {}, []
        for index in sorted({index for members in wanted for index in members}):
            found[index], more = saved_model.load_run(self.runs[index].folder)
            found[index].model.to(device)
            warnings += more
        members = tuple(
            tuple(LoadedMember(found[index], found[index].task(facts.name)) for index in chosen)
            for facts, chosen in zip(self.facts, wanted, strict=True)
        )
        return Predictor(self.folder, self.facts, members), list(dict.fromkeys(warnings))


def open_run(folder: Path) -> RunInfo:
    """The outline of a run folder or an ensemble's. Raises MtlError for what is neither, or damaged."""
    if not (folder / ENSEMBLE).is_file():
        run = read_member(folder)
        return RunInfo(folder, f"step {run.record['step']}", run.facts, (run,), ((0,),) * len(run.facts))
    runs, tasks = ensemble.read(folder)
    facts = []
    for name, members in tasks.items():
        each = [found for index in members if (found := runs[index].find(name)) is not None]
        ranges = [one.score_range for one in each if one.score_range is not None]
        whole = (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None
        facts.append(replace(each[0], score_range=whole))
    return RunInfo(folder, f"{len(runs)} runs", tuple(facts), runs, tuple(tasks.values()))


def in_order(found: Predicted, labels: tuple[str, ...] | None, wanted: tuple[str, ...] | None) -> Predicted:
    """Predictions over classes in the order `labels` -> the same in the order `wanted`, matched by name. Scores stay."""
    if labels is None or wanted is None or labels == wanted:
        return found
    place = np.array([wanted.index(label) for label in labels])
    columns = [labels.index(label) for label in wanted]
    probabilities = None if found.probabilities is None else found.probabilities[:, columns]
    return replace(found, values=place[found.values], probabilities=probabilities)


def average(votes: Sequence[Predicted], classes: int | None) -> Predicted:
    """The mean of probabilities (n, classes) and its largest class, or of scores (n,) in the units of the data; loss is NaN.

    A vote without probabilities counts as sure of its class. Of one vote alone, it is that vote as it is.
    """
    if len(votes) == 1:
        return replace(votes[0], loss=float("nan"))
    if classes is None:
        return Predicted(np.stack([vote.values for vote in votes]).mean(axis=0, dtype=np.float64), None, float("nan"))
    sure = np.eye(classes)
    each = [sure[vote.values] if vote.probabilities is None else vote.probabilities for vote in votes]
    mean: np.ndarray = np.stack(each).mean(axis=0, dtype=np.float64)
    return Predicted(mean.argmax(axis=1), mean, float("nan"))
