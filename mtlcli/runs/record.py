"""run.json: what is needed to use a trained model."""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mtlcli import __version__
from mtlcli.config.schema import Choice, Config
from mtlcli.errors import MtlError, did_you_mean
from mtlcli.facts import TaskFacts
from mtlcli.files import sha256
from mtlcli.runs.folder import not_a_run
from mtlcli.runs.seeds import must_be_no_group
from mtlcli.tasks.targets import target_of

FORMAT = 2


def task_record(
    config: Config, task: TaskFacts, texts: tuple[str, ...], label: str | None, metrics: tuple[str, ...]
) -> dict[str, Any]:
    """What run.json says of a task: enough to read, predict and measure it again."""
    section = config.tasks[task.name]
    kind, head = section.entry, config.head_of(task.name).entry
    return {
        "kind": section.name,
        "distribution": kind.distribution,
        "version": kind.version,
        "encoding": section.encoding,
        "text": list(texts),
        "label": label,
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


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a run. Raises MtlError for a folder that holds no finished run."""
    if folder.is_file():
        raise MtlError(f"{folder}: is a file; expected a run folder, such as {folder.absolute().parent}")
    if not folder.is_dir():
        near = [other.name for other in folder.absolute().parent.iterdir()] if folder.absolute().parent.is_dir() else []
        raise MtlError(f"{folder}: there is no such run folder{did_you_mean(folder.name, near)}")
    must_be_no_group(folder)
    path = folder / "run.json"
    if not path.is_file():
        if (folder / "checkpoints").is_dir() or (folder / "config.yaml").is_file():
            raise MtlError(
                f"{folder}: this run has saved no model yet; go on with: mtl train --resume --output {folder}"
            )
        raise MtlError(not_a_run(folder, "run.json"))
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if record["format"] == FORMAT:
            _must_be_whole(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise MtlError(
            f"{path}: damaged ({what[:120]}); write it again from the checkpoint: mtl train --resume --output {folder}"
        ) from error
    if record["format"] != FORMAT:
        raise MtlError(
            f"{path}: format {record['format']} was written by another mtlcli ({record.get('mtlcli')}); this is {__version__}"
        )
    return record


def _must_be_whole(record: Mapping[str, Any]) -> None:
    """Raises ValueError, KeyError, TypeError or AttributeError, as it comes, for what is not as `export` wrote it."""
    stored_config(record)
    for task in record["tasks"].values():
        _facts(task["facts"])
        tuple(task["text"])
        bool(task["config"]["header"])
    dict(record["files"])
    int(record["step"])


def stored_config(record: Mapping[str, Any]) -> Config:
    """The configuration of a run, resolved."""
    return Config.model_validate(record["config"])


def stored_facts(record: Mapping[str, Any]) -> tuple[TaskFacts, ...]:
    """What is known of each task, in their order."""
    return tuple(_facts(task["facts"]) for task in record["tasks"].values())


def must_be_as_written(folder: Path, record: Mapping[str, Any]) -> None:
    """Raises MtlError for the first file of a run that is missing or changed."""
    for name, digest in record["files"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            state = "is not as it was written (sha256 differs)" if path.is_file() else "is missing"
            raise MtlError(f"{path}: {state}; write it again from the checkpoint: mtl train --resume --output {folder}")


def _facts(values: dict[str, Any]) -> TaskFacts:
    return TaskFacts(**values | {"target": target_of(values["target"])})


def check_installed(record: Mapping[str, Any]) -> list[str]:
    """Compare the distributions of the plugins that a saved model needs with those that are installed.

    Returns:
        One warning for each distribution of another version.

    Raises:
        MtlError: the distribution of a task, a head or the architecture is not installed.
    """
    warnings = []
    sources = {}
    if "architecture" in record:
        architecture = record["architecture"]
        name = f'the architecture "{architecture["name"]}"'
        sources[name] = (architecture["distribution"], architecture["version"])
    for name, task in record["tasks"].items():
        sources[f'task "{name}"'] = (task["distribution"], task["version"])
        sources[f'the head of task "{name}"'] = (task["head_distribution"], task["head_version"])
    for what, (distribution, version) in sources.items():
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
