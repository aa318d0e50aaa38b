"""run.json: what is needed to use a trained model."""

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict, cast

from mtlcli.config.schema import Choice, Config
from mtlcli.errors import MtlError, did_you_mean
from mtlcli.facts import TaskFacts
from mtlcli.files import read_sealed, sha256, unreadable, write_sealed
from mtlcli.runs.names import CHECKPOINTS, CONFIG, RECORD, not_a_run, resume_command
from mtlcli.runs.results import has_results
from mtlcli.runs.seeds import must_be_no_group
from mtlcli.tasks.targets import target_of

FORMAT = 2


class TaskRecord(TypedDict):
    """One task in run.json: its kind and head with their distributions, how it is read, and its facts."""

    kind: str
    distribution: str
    version: str
    encoding: str
    text: list[str]
    label: str | list[str]
    metrics: list[str]
    head: dict[str, Any] | None
    head_distribution: str
    head_version: str
    facts: dict[str, Any]
    config: dict[str, Any]


class RunRecord(TypedDict):
    """run.json. `step` of `steps` is where the weights are from, `score` what they were selected by, and `files` the sha256 of
    every other file that a later command reads. `encoder_alone` is why encoder/ alone gives other features than the run, None where
    it gives the same."""

    format: int
    mtlcli: str
    step: int
    steps: int
    score: float | None
    select_by: str
    pooling: str
    layer: int
    max_length: int
    encoder_alone: str | None
    architecture: dict[str, str]
    tasks: dict[str, TaskRecord]
    config: dict[str, Any]
    files: dict[str, str]


def task_record(
    config: Config, task: TaskFacts, texts: tuple[str, ...], labels: tuple[str, ...], metrics: tuple[str, ...]
) -> TaskRecord:
    """Return what run.json holds of a task: enough to read, predict and evaluate it again."""
    section = config.tasks[task.name]
    kind, head = section.entry, config.head_of(task.name).entry
    return {
        "kind": section.name,
        "distribution": kind.distribution,
        "version": kind.version,
        "encoding": section.encoding or "single",
        "text": list(texts),
        "label": labels[0] if len(labels) == 1 else list(labels),
        "metrics": list(metrics),
        "head": section.head.model_dump() if section.head else None,
        "head_distribution": head.distribution,
        "head_version": head.version,
        "facts": {
            "name": task.name,
            "rows": task.rows,
            "batches": task.batches,
            "dev_rows": task.dev_rows,
            "target": task.target.record(),
        },
        "config": section.model_dump(mode="json", by_alias=True),
    }


def origin_record(choice: Choice) -> dict[str, str]:
    """Return the name of a plugin, its distribution and version, so that a missing one can be named on another machine."""
    entry = choice.entry
    return {"name": choice.name, "distribution": entry.distribution, "version": entry.version}


def read_record(folder: Path) -> RunRecord:
    """Return run.json of a run.

    Raises:
        MtlError: the folder holds no saved model, or its record is damaged or of another version.
    """
    if folder.is_file():
        raise MtlError(f"{folder}: is a file; expected a run folder, such as {folder.absolute().parent}")
    if not folder.is_dir():
        near = [other.name for other in folder.absolute().parent.iterdir()] if folder.absolute().parent.is_dir() else []
        raise MtlError(f"{folder}: there is no such run folder{did_you_mean(folder.name, near)}")
    # A folder of seeds also has no run.json, and this error names the runs in it.
    must_be_no_group(folder)
    path = folder / RECORD
    if not path.is_file():
        if (folder / CHECKPOINTS).is_dir() or (folder / CONFIG).is_file():
            raise MtlError(f"{folder}: this run has saved no model yet; resume it with: {resume_command(folder)}")
        raise MtlError(not_a_run(folder, RECORD))
    content = read_sealed(path, FORMAT, _cure(folder))
    try:
        _must_be_readable(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(
            path, content.get("mtlcli"), f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    return cast(RunRecord, content)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json. `files` is the sha256 of every other file that a later command reads, by relative path."""
    write_sealed(folder / RECORD, record, FORMAT)


def _cure(folder: Path) -> str:
    return f"write it again from the checkpoint: {resume_command(folder)}"


def _must_be_readable(record: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError, TypeError or AttributeError if the record does not have the structure written by `export`."""
    # What fails here would fail later in a command, without the name of the file.
    Config.model_validate(record["config"])
    for task in record["tasks"].values():
        _facts(task["facts"])
        tuple(task["text"])
        bool(task["config"]["header"])
        [task[key] for key in TaskRecord.__annotations__]
    dict(record["files"])
    int(record["step"])
    int(record["steps"])


def stored_config(record: RunRecord) -> Config:
    """Return the resolved configuration of a run."""
    return Config.model_validate(record["config"])


def stored_facts(record: RunRecord) -> tuple[TaskFacts, ...]:
    """Return the facts of each task, in their order."""
    return tuple(_facts(task["facts"]) for task in record["tasks"].values())


def must_be_as_written(folder: Path, record: RunRecord) -> None:
    """Raise MtlError for the first file of a run that is missing or changed."""
    for name, digest in record["files"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            state = "is not as it was written (sha256 differs)" if path.is_file() else "is missing"
            raise MtlError(f"{path}: {state}; {_cure(folder)}")


def model_digest(record: RunRecord) -> str:
    """Return a digest of the weights and the tokenizer of a run, which does not depend on where the run is."""
    return hashlib.sha256(json.dumps(record["files"], sort_keys=True).encode("ascii")).hexdigest()


def is_auxiliary(task: Mapping[str, Any]) -> bool:
    """Return whether a task of a run, as run.json holds it, is trained without being evaluated or counted."""
    return bool(task["config"].get("auxiliary"))


def unfinished_note(folder: Path, record: RunRecord) -> str | None:
    """Return a sentence about the weights of a run that has not finished; None for one that has."""
    if has_results(folder):
        return None
    return (
        f"{folder}: the run has not finished; its model is of step {record['step']} of {record['steps']}, the best so far; "
        f"resume it with: {resume_command(folder)}"
    )


def _facts(values: dict[str, Any]) -> TaskFacts:
    # Without `class_loss` and `head_guess`, which only training uses.
    return TaskFacts(**values | {"target": target_of(values["target"])})


def check_installed(record: RunRecord) -> list[str]:
    """Compare the distributions of the plugins that a saved model needs with those that are installed.

    Returns:
        One warning for each distribution of another version.

    Raises:
        MtlError: the distribution of a task, a head or the architecture is not installed.
    """
    warnings = []
    sources = {}
    # Records of early versions do not have it.
    if "architecture" in record:
        architecture = record["architecture"]
        name = f'the architecture "{architecture["name"]}"'
        sources[name] = (architecture["distribution"], architecture["version"])
    for name, task in record["tasks"].items():
        sources[f'task "{name}"'] = (task["distribution"], task["version"])
        sources[f'the head of task "{name}"'] = (task["head_distribution"], task["head_version"])
    for what, (distribution, version) in sources.items():
        # A class given as package.module:Class has no version to compare.
        if distribution in ("mtlcli", "(local)"):
            continue
        try:
            now = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            raise MtlError(
                f"{what} comes from {distribution} {version}, which is not installed; pip install {distribution}=={version}"
            ) from None
        if now != version:
            warnings.append(f"{what} was trained with {distribution} {version}; {now} is installed")
    return warnings


def inherited_sections(folder: Path) -> dict[str, Any]:
    """Return the sections `encoder` and `architecture` of a finished run, which a run started from it inherits.

    Raises:
        MtlError: the folder holds no finished run, or its record is damaged.
    """
    stored = stored_config(read_record(folder)).plain()
    return {key: stored[key] for key in ("encoder", "architecture")}
