"""Prediction with a finished run, or with an ensemble of runs whose predictions are averaged.

A folder is first opened, which is fast and describes its tasks, and then loaded. A single run is treated as an ensemble of one
member for every task.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mtlcli.config.schema import Config
from mtlcli.data.encodings import RowEncoding, encoding_of
from mtlcli.data.splits import Split
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.data.tokens import tokenize_split
from mtlcli.distributed.world import World
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import TaskFacts
from mtlcli.model.predict import NotFinite, predict_rows
from mtlcli.runs import ensemble, saved_model
from mtlcli.runs.ensemble import EnsembleMember, read_member
from mtlcli.runs.names import ENSEMBLE, MERGE
from mtlcli.runs.record import check_installed, is_auxiliary, stored_config, unfinished_note
from mtlcli.runs.saved_model import SavedRun
from mtlcli.tasks.targets import Arrays


@dataclass(frozen=True)
class LoadedMember:
    """A run that predicts a task, and the run's index of that task."""

    run: SavedRun
    task: int

    @property
    def encoding(self) -> RowEncoding:
        """How this run encodes the task's texts."""
        return encoding_of(self.run.config.tasks[self.run.facts[self.task].name])


@dataclass(frozen=True)
class Predictor:
    """A loaded run or ensemble: its tasks in order, and the members of each task; none for a task that was not loaded."""

    folder: Path
    facts: tuple[TaskFacts, ...]
    members: tuple[tuple[LoadedMember, ...], ...]

    def average(self, task: int, votes: Sequence[Arrays]) -> Arrays:
        """Return the average of the predictions of a task's members, which are given in the members' order."""
        owners = [member.run.facts[member.task].target for member in self.members[task]]
        return self.facts[task].target.average(votes, owners)

    def on_split(
        self, task: int, split: Split, device: torch.device, autocast: AbstractContextManager[object]
    ) -> Arrays:
        """Predict the rows of a split, which each member reads with its own tokenizer and encoding.

        Raises:
            MtlError: an output is not finite.
        """
        return self.on_same_rows({task: split}, device, autocast)[task]

    def on_same_rows(
        self, splits: Mapping[int, Split], device: torch.device, autocast: AbstractContextManager[object],
        world: World | None = None,
    ) -> dict[int, Arrays]:  # fmt: skip
        """Predict splits of tasks (indices) that have the same texts and encoding, as `on_split` does, in shared passes.

        Each process of `world` computes a part of the batches, and all return the whole.

        Raises:
            MtlError: an output is not finite.
        """
        first = next(iter(splits.values()))
        together: dict[tuple[int, RowEncoding], list[tuple[int, LoadedMember]]] = {}
        for task in splits:
            for member in self.members[task]:
                # Words are cut as the first run cuts them, so that all runs predict the same items.
                encoding = first.encoding if first.encoding.nested else member.encoding
                # By identity: the members of all tasks of a run share one SavedRun.
                together.setdefault((id(member.run), encoding), []).append((task, member))
        votes: dict[tuple[int, int], Arrays] = {}  # by task and run
        for (key, encoding), members in together.items():
            run = members[0][1].run
            tokenizer = Tokenizer(run.encoder.tokenizer, run.config.encoder.max_length)
            # Without labels: the split has those of the merged target, and a member can have others or another order.
            tokens = replace(tokenize_split(replace(first, encoding=encoding), tokenizer, None), target=None, gold=None)
            try:
                of_members = {member.task: tokens for _, member in members}
                predicted = predict_rows(run.model, of_members, device, autocast, world=world)
            except NotFinite as error:
                raise MtlError(f"{run.folder}: {error}. Use another checkpoint or --precision fp32") from error
            votes |= {(task, key): predicted[member.task].rows for task, member in members}
        return {
            task: self.average(task, [votes[task, id(member.run)] for member in self.members[task]]) for task in splits
        }


@dataclass(frozen=True)
class RunInfo:
    """Description of a run or an ensemble, without its weights.

    Attributes:
        title: which weights these are.
        members: for each task, in the order of `facts`, the numbers of the runs that predict it.
    """

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
        """`tasks` as in run.json: how each task is read by the first run that predicts it."""
        first = {facts.name: self.runs[members[0]] for facts, members in zip(self.facts, self.members, strict=True)}
        return {"tasks": {name: run.record["tasks"][name] for name, run in first.items()}}

    @property
    def auxiliary(self) -> frozenset[str]:
        """Names of the tasks that do not count; of an ensemble, those that do not in the first run that predicts them."""
        return frozenset(name for name, task in self.record["tasks"].items() if is_auxiliary(task))

    def task(self, name: str) -> int:
        """Return the index of a task.

        Raises:
            MtlError: there is no such task; names the existing ones.
        """
        names = [facts.name for facts in self.facts]
        if name not in names:
            raise MtlError(f'{self.folder}: no task "{name}"{suggest(name, names)}')
        return names.index(name)

    def config(self, task: int) -> Config:
        """Return the configuration with the sources of a task's rows: that of the first run that predicts it."""
        return stored_config(self.runs[self.members[task][0]].record)

    def fingerprint(self, task: int) -> str:
        """Return a digest of all files of all runs that predict a task."""
        return hashlib.sha256("\0".join(self.runs[index].digest for index in self.members[task]).encode()).hexdigest()

    def with_threshold(self, threshold: float, tasks: Collection[int]) -> "RunInfo":
        """Return the run with one threshold in place of those tuned on dev, for each of these tasks that has some.

        Raises:
            MtlError: the threshold is no probability, or no task has thresholds.
        """
        if not 0 <= threshold <= 1:
            raise MtlError(f"threshold: found {threshold:g}; expected a probability from 0 to 1")
        facts, errors = list(self.facts), list[str]()
        for index in tasks:
            try:
                target = facts[index].target.with_threshold(threshold, f"threshold: {facts[index].name}")
            except MtlError as error:
                errors += error.lines
            else:
                facts[index] = replace(facts[index], target=target)
        if len(errors) == len(tasks):
            raise MtlError(*errors)
        return replace(self, facts=tuple(facts))

    def check_installed(self) -> None:
        """Check that the distributions of all runs are installed.

        Raises:
            MtlError: one is not.
        """
        for run in self.runs:
            check_installed(run.record)

    def load(self, device: torch.device, tasks: Collection[int] | None = None) -> tuple[Predictor, list[str]]:
        """Load the models onto a device, and return warnings too.

        Args:
            tasks: load only the runs that predict these.

        Raises:
            MtlError: a file is missing or damaged.
        """
        wanted = [members if tasks is None or task in tasks else () for task, members in enumerate(self.members)]
        loaded, warnings = {}, []
        for index in sorted({index for members in wanted for index in members}):
            loaded[index], more = saved_model.load_run(self.runs[index].folder)
            loaded[index].model.to(device)
            warnings += more
        members = tuple(
            tuple(LoadedMember(loaded[index], loaded[index].task(facts.name)) for index in of_task)
            for facts, of_task in zip(self.facts, wanted, strict=True)
        )
        # Runs of an ensemble often have the same warnings.
        return Predictor(self.folder, self.facts, members), list(dict.fromkeys(warnings))


def open_run(folder: Path) -> RunInfo:
    """Read the description of a run folder or an ensemble.

    Raises:
        MtlError: the folder is neither, or damaged.
    """
    if not (folder / ENSEMBLE).is_file():
        run = read_member(folder)
        title = "merged" if (folder / MERGE).is_file() else f"step {run.record['step']}"
        return RunInfo(folder, title, run.facts, (run,), ((0,),) * len(run.facts))
    runs, tasks = ensemble.read(folder)
    facts = []
    for name, members in tasks.items():
        # Runs can differ in tuned thresholds or in the range of scores, which the merged target reconciles.
        first, *others = [of_run for index in members if (of_run := runs[index].find(name)) is not None]
        facts.append(replace(first, target=first.target.merge([other.target for other in others])))
    return RunInfo(folder, f"{len(runs)} runs", tuple(facts), runs, tuple(tasks.values()))
