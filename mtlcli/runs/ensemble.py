"""Ensembles: runs listed in ensemble.json, and for each task those that predict it.

The file names each run by a path relative to it, with the sha256 of its run.json, which in turn holds those of its weights, so
that a run that was trained again is noticed. No weights are copied.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli import registry
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.facts import TaskFacts
from mtlcli.files import SCRATCH, discard, read_sealed, remove_abandoned, sha256, unreadable, write_sealed
from mtlcli.metrics.titles import plugin_of
from mtlcli.runs.lock import lock_folder
from mtlcli.runs.names import ENSEMBLE, LOCK, PREDICTIONS, RECORD, RESULTS, predicted_splits, resume_command
from mtlcli.runs.record import RunRecord, must_be_as_written, read_record, stored_facts
from mtlcli.runs.results import Predictions, read_results
from mtlcli.runs.seeds import finished_group

FORMAT = 2


@dataclass(frozen=True)
class EnsembleMember:
    """A run: its folder, run.json, the sha256 of that, and the facts of its tasks in order."""

    folder: Path
    record: RunRecord
    digest: str
    facts: tuple[TaskFacts, ...]

    def find(self, name: str) -> TaskFacts | None:
        """Return the facts of a task, None if the run has no such task."""
        return next((facts for facts in self.facts if facts.name == name), None)


@dataclass(frozen=True)
class TaskMembers:
    """The runs that predict a task, by number, with their metric on dev or None if it is missing; and those left out."""

    task: str
    metric: str
    threshold: float | None
    members: Mapping[int, float | None]
    left_out: Mapping[int, float]


@dataclass(frozen=True)
class Ensemble:
    """Runs, the members of each task, and notes for the user."""

    runs: tuple[EnsembleMember, ...]
    tasks: tuple[TaskMembers, ...]
    notes: tuple[str, ...]


def read_member(folder: Path) -> EnsembleMember:
    """Read a run without its weights. Raise MtlError if the folder holds no saved model."""
    record = read_record(folder)
    return EnsembleMember(folder, record, sha256(folder / RECORD), stored_facts(record))


def choose(folders: Sequence[Path], thresholds: Mapping[str, float]) -> Ensemble:
    """Choose the members of each task: all runs that have it, or those whose primary metric on dev reaches its threshold.

    A group of seeds stands for its runs. The metrics are those in results.json.

    Raises:
        MtlError: all errors at once: fewer than two runs, a damaged run, tasks of one name that differ, a threshold that no run
            reaches.
    """
    folders = [run for folder in folders for run in _runs_of(folder)]
    if len(folders) < 2:
        raise MtlError(f"an ensemble needs two runs or more; found {one_of(map(str, folders))}")
    errors = [
        f"{folder}: the run is named twice; name it once"
        for index, folder in enumerate(folders)
        if folder.resolve() in [other.resolve() for other in folders[:index]]
    ]
    runs: list[EnsembleMember] = []
    # A folder that is named twice already has an error, and is read once.
    for folder in dict.fromkeys(folders):
        try:
            if (folder / ENSEMBLE).is_file():
                raise MtlError(f"{folder}: is an ensemble itself; name its runs instead: {one_of(_listed(folder))}")
            run = read_member(folder)
            # Reads all weights, once: later commands compare run.json, and weights only when they load them.
            must_be_as_written(folder, run.record)
            runs.append(run)
        except MtlError as error:
            errors.extend(error.lines)
    if errors:
        raise MtlError(*errors)
    names = list(dict.fromkeys(facts.name for run in runs for facts in run.facts))
    errors += [
        f"--threshold {name}={value:g}: no run has such a task{suggest(name, names)}"
        for name, value in thresholds.items()
        if name not in names
    ]
    tasks: list[TaskMembers] = []
    notes: list[str] = []
    for name in names:
        try:
            tasks.append(_choose(runs, name, thresholds.get(name), notes))
        except MtlError as error:
            errors.extend(error.lines)
    if errors:
        raise MtlError(*errors)
    unused = [str(run.folder) for index, run in enumerate(runs) if not any(index in task.members for task in tasks)]
    notes += [f"{folder}: not used for any task" for folder in unused]
    return Ensemble(tuple(runs), tuple(tasks), tuple(notes))


def _runs_of(folder: Path) -> tuple[Path, ...]:
    group = finished_group(folder)
    return (folder,) if group is None else group.runs


def _choose(runs: Sequence[EnsembleMember], name: str, threshold: float | None, notes: list[str]) -> TaskMembers:
    having = {index: run for index, run in enumerate(runs) if run.find(name) is not None}
    must_agree(list(having.values()), name)
    first = next(iter(having.values()))
    # Runs may have other primary metrics; one metric decides for all.
    metric: str = first.record["tasks"][name]["metrics"][0]
    results = {index: dev_result(run, name, metric) for index, run in having.items()}
    values = {index: None if one is None else one[0] for index, one in results.items()}
    problems = _other_rows([run.folder for run in having.values()], name)
    if problems and threshold is not None:
        raise MtlError(*(f"--threshold {name}={threshold:g}: {problem}" for problem in problems))
    notes += [f"{name}: {problem}" for problem in problems]
    targets = {str(run.folder): facts.target for run in having.values() if (facts := run.find(name)) is not None}
    if caveat := targets[str(first.folder)].caveat(targets):
        notes.append(f"{name}: {caveat}")
    if threshold is None:
        return TaskMembers(name, metric, None, values, {})
    errors = [
        f"{runs[index].folder}: {RESULTS} has no {metric} of {name} on dev for these weights, which --threshold "
        f"{name}={threshold:g} asks for; leave the run out, or finish it: {resume_command(runs[index].folder)}"
        for index, value in values.items()
        if value is None
    ]
    if errors:
        raise MtlError(*errors)
    known = {index: value for index, value in values.items() if value is not None}
    # A title may have options behind the name, as in calibration-error[bins=10].
    higher = registry.load("metrics", plugin_of(metric), f"tasks.{name}").higher_is_better
    # Equality counts in both directions, which the comparison alone would exclude for metrics to maximize.
    members = {index: value for index, value in known.items() if value == threshold or (value > threshold) == higher}
    if not members:
        best = (max if higher else min)(known, key=known.__getitem__)
        raise MtlError(
            f"--threshold {name}={threshold:g}: no run has {metric} {'at least' if higher else 'at most'} that; the best is "
            f"{runs[best].folder} with {known[best]:.4f}"
        )
    return TaskMembers(name, metric, threshold, members, {i: value for i, value in known.items() if i not in members})


def _other_rows(folders: Sequence[Path], task: str) -> list[str]:
    """Return a sentence for each run whose dev rows have other texts than those of the first run with predictions.

    Metrics on other rows cannot be held against one threshold. A run without predictions is left out of this.
    """
    by_split: dict[str, list[Predictions]] = {}
    for folder in folders:
        for (name, split), path in predicted_splits(folder, "dev").items():
            if name == task:
                by_split.setdefault(split, []).append(Predictions(path))
    return [problem for files in by_split.values() for problem in _other_rows_of(files)]


def _other_rows_of(files: Sequence[Predictions]) -> list[str]:
    return [
        f"{file.path} has {missing} of {len(file.rows)} rows that {files[0].path} does not have, so their metrics are about "
        f"different rows; measure both on the same dev file"
        for file in files[1:]
        if (missing := max(file.missing_from(files[0]), files[0].missing_from(file)))
    ]


def must_agree(runs: Sequence[EnsembleMember], name: str) -> None:
    """Raises MtlError where runs mean different things by a task of one name."""
    first = runs[0]
    meant = _meaning(first, name)
    errors = [
        f'{run.folder}: its task "{name}" has {_meaning(run, name)}, that of {first.folder} {meant}; '
        "leave one of the two runs out"
        for run in runs[1:]
        if _meaning(run, name) != meant
    ]
    if errors:
        raise MtlError(*errors)


def _meaning(run: EnsembleMember, name: str) -> str:
    """Return what a task reads and predicts, in words that are equal where runs can be averaged."""
    facts = run.find(name)
    texts = "two texts" if len(run.record["tasks"][name]["text"]) == 2 else "one text"
    return texts if facts is None else f"{texts} and {facts.target.meaning}"


def dev_result(run: EnsembleMember, task: str, metric: str) -> tuple[float, int] | None:
    """Return a run's metric on dev and the number of rows, None where its results are missing or of other weights."""
    try:
        results = read_results(run.folder)
    except MtlError:
        return None
    estimate = results.tasks.get(task, {}).get("dev", {}).get(metric)
    if estimate is None or results.selected_step != run.record["step"] or not math.isfinite(estimate.value):
        return None
    return estimate.value, estimate.n


def check_place(folder: Path, *, overwrite: bool) -> None:
    """Raise MtlError where an ensemble may not be written: a file, a folder with other content, an ensemble without `overwrite`."""
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    if not folder.is_dir() or not any(
        path.name != LOCK and not path.name.startswith(SCRATCH) for path in folder.iterdir()
    ):
        return
    if not (folder / ENSEMBLE).is_file():
        raise MtlError(f"--output: {folder} holds something else than an ensemble; choose another folder")
    if not overwrite:
        raise MtlError(f"--output: {folder} holds an ensemble: add --overwrite to replace it")


def write(ensemble: Ensemble, folder: Path) -> None:
    """Write ensemble.json, and remove the results and predictions of an ensemble that was in the folder before.

    Raises:
        MtlError: the folder cannot be written, or another process writes to it.
    """
    with lock_folder(folder):
        remove_abandoned(folder)
        # Before ensemble.json: a kill in between leaves an ensemble without results, not with those of another one.
        discard(folder / RESULTS)
        for path in (folder / PREDICTIONS).glob("*.jsonl"):
            discard(path)
        if (folder / PREDICTIONS).is_dir() and not any((folder / PREDICTIONS).iterdir()):
            (folder / PREDICTIONS).rmdir()
        write_sealed(folder / ENSEMBLE, _content(ensemble, folder), FORMAT)


def _content(ensemble: Ensemble, folder: Path) -> dict[str, Any]:
    names = [relative_name(run.folder, folder) for run in ensemble.runs]
    # A run that predicts no task need not exist later.
    used = [index for index in range(len(names)) if any(index in task.members for task in ensemble.tasks)]
    return {
        "runs": {
            names[index]: {"sha256": ensemble.runs[index].digest, "step": ensemble.runs[index].record["step"]}
            for index in used
        },
        "tasks": {
            task.task: {
                "metric": task.metric,
                "threshold": task.threshold,
                "members": {names[index]: value for index, value in task.members.items()},
                "left_out": {names[index]: value for index, value in task.left_out.items()},
            }
            for task in ensemble.tasks
        },
    }


def relative_name(run: Path, folder: Path) -> str:
    """Return the path of a run relative to the folder whose file names it."""
    try:
        return Path(os.path.relpath(run.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(run.resolve())


def _listed(folder: Path) -> list[str]:
    """Return the folders of an ensemble's runs; none where its file cannot be read."""
    try:
        return [str(_place(folder, name)) for name in read_sealed(folder / ENSEMBLE, FORMAT, "")["runs"]]
    except (MtlError, ValueError, KeyError, TypeError):
        return []


def _place(folder: Path, name: str) -> Path:
    path = Path(os.path.normpath(folder.resolve() / name))
    # Messages quote the folder, so it is as short as the user would write it.
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def read(folder: Path) -> tuple[tuple[EnsembleMember, ...], dict[str, tuple[int, ...]]]:
    """Return the runs of an ensemble, and by task the numbers of its members.

    Raises:
        MtlError: the file is damaged, or a run is missing or has changed since: a line for each.
    """
    path = folder / ENSEMBLE
    again = f"make it again: mtl ensemble RUN... --output {folder} --overwrite"
    content = read_sealed(path, FORMAT, again)
    try:
        digests = {str(name): str(run["sha256"]) for name, run in content["runs"].items()}
        names = list(digests)
        members = {task: tuple(map(names.index, values["members"])) for task, values in content["tasks"].items()}
        if not members or not all(members.values()):
            raise ValueError("a task without members")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(path, content.get("mtlcli"), f"{type(error).__name__}: {error}") from error
    runs, errors = [], []
    for name, digest in digests.items():
        try:
            run = read_member(_place(folder, name))
            if run.digest != digest:
                raise MtlError(f"{run.folder}: is not the run that was chosen: its run.json has changed since; {again}")
            runs.append(run)
        except MtlError as error:
            errors += [f"{path}: {line}" for line in error.lines]
    if errors:
        raise MtlError(*errors)
    for task, indices in members.items():
        if lacking := [str(runs[index].folder) for index in indices if runs[index].find(task) is None]:
            raise MtlError(f'{path}: tasks.{task}: {one_of(lacking)} has no task "{task}"; {again}')
        must_agree([runs[index] for index in indices], task)
    return tuple(runs), members
