"""Checkpoints: safetensors and JSON, written whole or not at all, with the sha256 of every file."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.files import load_tensors, sha256, share, sync, sync_folder

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole: its folder and step."""

    folder: Path
    step: int

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors saved under a part's name, on the CPU."""
        return load_tensors(self.folder / f"{part}.safetensors")

    def state(self) -> dict[str, Any]:
        """The plain values."""
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found


def save(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any],
    extra: Callable[[Path], None],
) -> Path:  # fmt: skip
    """Writes `folder/step-N` under a temporary name, syncs it to disk and renames it.

    `extra` may write further files into it. Raises MtlError, with the older checkpoints untouched, when the disk is full.
    """
    needed = sum(tensor.nbytes for tensors in parts.values() for tensor in tensors.values())
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed * 1.02 + 1_000_000:
        raise MtlError(
            f"{folder}: no space for a checkpoint: it needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
            "the older ones are whole: make space and go on with --resume"
        )
    done, scratch = folder / f"step-{step}", folder / f".writing-step-{step}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        for name, tensors in parts.items():
            # safetensors wants each tensor in memory of its own: views of one buffer are copied out
            save_file(
                {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()},
                scratch / f"{name}.safetensors",
            )
        (scratch / "state.json").write_text(json.dumps(state, indent=1))
        extra(scratch)
        (scratch / MANIFEST).write_text(json.dumps(hashes(scratch), indent=1))
        share(scratch)
        sync(scratch)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise MtlError(f"{done}: cannot be written ({error.strerror}); the older checkpoints are whole") from error
    if done.exists():
        shutil.rmtree(done)
    scratch.rename(done)
    sync_folder(folder)
    return done


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder but the manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, ascending, whole or not; unfinished writes do not count."""
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for match in found if match)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None when every file is as it was written."""
    try:
        expected: dict[str, str] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or not readable"
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != digest:
            return f"{name} is not as it was written (sha256 differs)"
    return None


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and a line about each damaged one that was passed over."""
    skipped: list[str] = []
    for step in reversed(steps(folder)):
        found = folder / f"step-{step}"
        problem = damage(found)
        if problem is None:
            return Checkpoint(found, step), skipped
        skipped.append(f"{found}: skipped: {problem}")
    return None, skipped


def prune(folder: Path, keep_last: int, best: int | None) -> None:
    """Removes all but the newest `keep_last` checkpoints and the best one, and what an interrupted write left."""
    for step in steps(folder)[:-keep_last]:
        if step != best:
            shutil.rmtree(folder / f"step-{step}", ignore_errors=True)
    for left in folder.glob(".writing-*"):
        shutil.rmtree(left, ignore_errors=True)
