"""What of a run may leave the machine: its record and configuration without the folders of files."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from mtlcli.config.layers import TEXTS

ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:[/\\]")


def without_folders(values: Any) -> Any:
    """Return a configuration in which every absolute path is the name of its file or folder alone.

    Texts of tasks, such as labels, stay as they are, even if they look like a path.
    """
    if isinstance(values, Mapping):
        return {key: value if key in TEXTS else without_folders(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [without_folders(value) for value in values]
    if isinstance(values, str) and ABSOLUTE.match(values):
        # A run from Windows can be exported on another system, where `PurePath` does not divide its paths.
        return PurePath(values.replace("\\", "/")).name
    return values


def record_without_folders(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return run.json with the names of files and folders alone."""
    tasks = {name: {**task, "config": without_folders(task["config"])} for name, task in record["tasks"].items()}
    return {**record, "tasks": tasks, "config": without_folders(record["config"])}
