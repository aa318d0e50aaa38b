"""environment.json: versions and machine of a run, to explain why two runs differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli.files import read_sealed_as, write_sealed
from mtlcli.runs.names import ENVIRONMENT, resume_command

FORMAT = 2


@dataclass(frozen=True)
class Environment:
    """Versions, machine and device. `git` describes the checkout in the folder where the run was started, None outside of one."""

    mtlcli: str
    python: str
    platform: str
    device: str
    device_name: str
    threads: int
    seed: int
    git: str | None
    versions: dict[str, str]


def write_environment(folder: Path, values: Mapping[str, Any]) -> None:
    """Write environment.json. Raise MtlError where it cannot be written."""
    write_sealed(folder / ENVIRONMENT, values, FORMAT)


def read_environment(folder: Path) -> Environment:
    """Return the environment of a run. Raise MtlError, one line, where the file is missing or damaged."""
    path = folder / ENVIRONMENT
    return read_sealed_as(Environment, path, FORMAT, f"write it again: {resume_command(folder)}")
