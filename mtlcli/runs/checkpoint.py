"""Checkpoints: safetensors and JSON, written whole or not at all, with the sha256 of every file."""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.files import (
    discard,
    load_tensors,
    remove_abandoned,
    scratch_path,
    sha256,
    share,
    sync,
    sync_folder,
    unreadable,
)

MANIFEST = "manifest.json"
STATE = "state.json"
MODEL, FROZEN = "model", "frozen"
"""Parts of a checkpoint with weights: those that may be trained and buffers, and those that never are, where there are some."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all as they were written: its folder and step."""

    folder: Path
    step: int

    def tensors(self, part: str) -> dict[str, Tensor]:
        """Return the tensors saved under a part's name, on the CPU."""
        return load_tensors(self.folder / f"{part}.safetensors")

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the model, those that are never trained included."""
        is_divided = (self.folder / f"{FROZEN}.safetensors").is_file()
        return self.tensors(MODEL) | (self.tensors(FROZEN) if is_divided else {})

    def state(self) -> dict[str, Any]:
        """Return the plain values."""
        values: dict[str, Any] = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        return values

    def config(self) -> dict[str, Any] | None:
        """Return the configuration of the run when it was saved, as plain values; None where another version kept none."""
        config = self.state().get("config")
        return config if isinstance(config, dict) else None

    def unreadable(self, reason: str) -> MtlError:
        """Return the error for a checkpoint that is whole, but not of a kind that this version reads."""
        return unreadable(self.folder, self.state().get("mtlcli", "(unknown)"), reason)


def save(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any],
    extra: Callable[[Path], None], digests: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write `folder/step-N` under a temporary name, force it to disk and rename it.

    Args:
        extra: writes further files into a folder.
        digests: sha256 of the file of `FROZEN` that this process has written, by its name, which is added. An older checkpoint's file
            with this digest becomes a file of the new one too, by a hard link.

    Raises:
        MtlError: the disk is full, or the files cannot be written; older checkpoints are untouched.
    """
    digests = {} if digests is None else digests
    written = [name for name in parts if f"{name}.safetensors" not in digests]
    # Parts that can be linked need no space again.
    needed = sum(tensor.nbytes for name in written for tensor in parts[name].values())
    done = folder / f"step-{step}"
    scratch = scratch_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        # The margin is for headers, the state and the tokenizer.
        if free < needed * 1.02 + 1_000_000:
            raise MtlError(
                f"{folder}: no space for a checkpoint: it needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
                "the older ones are complete: free some space and resume with --resume"
            )
        scratch.mkdir()
        for name, tensors in parts.items():
            file = f"{name}.safetensors"
            if file not in digests or not _link(folder, file, scratch / file):
                _write(tensors, scratch / file)
        (scratch / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        extra(scratch)
        # Of the files, not of the tensors, so that the frozen weights of an older checkpoint are verified as well.
        manifest = hashes(scratch)
        for file in digests:
            if manifest[file] != digests[file]:  # the older one has been damaged
                (scratch / file).unlink()
                _write(parts[FROZEN], scratch / file)
                manifest[file] = sha256(scratch / file)
        # Later checkpoints of this process link to this file.
        digests.update({name: digest for name, digest in manifest.items() if name == f"{FROZEN}.safetensors"})
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        share(scratch)
        # Before the rename: after a power failure, a folder step-N has all its content.
        sync(scratch)
        # A damaged checkpoint of this step, which a resumed run writes again; a rename cannot replace it.
        _remove(done)
        scratch.rename(done)
        sync_folder(folder)
    except OSError as error:
        discard(scratch)
        raise MtlError(f"{done}: cannot be written ({error.strerror}); the older checkpoints are complete") from error
    return done


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    # safetensors requires each tensor in memory of its own, so views of one buffer are copied.
    save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, path)


def _link(folder: Path, name: str, path: Path) -> bool:
    """Make a file of the newest older checkpoint that has it a file of the new one; return whether that was possible."""
    for step in reversed(steps(folder)):
        try:
            os.link(folder / f"step-{step}" / name, path)
            return True
        except OSError:  # no such file, or a file system without links
            continue
    return False


def _remove(folder: Path) -> None:
    """Remove a checkpoint under another name, so that a kill leaves none that is half deleted."""
    if folder.exists():
        scratch = scratch_path(folder.parent)
        folder.rename(scratch)
        discard(scratch)


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder but the manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, ascending, damaged ones included; unfinished writes do not count."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name[1]) for name in names if name)


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, None when every file is as it was written."""
    try:
        expected: dict[str, str] = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return f"{MANIFEST} is missing or not readable"
    # Without this, an empty manifest would make a checkpoint without files complete.
    if STATE not in expected:
        return f"{MANIFEST} does not list {STATE}"
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != digest:
            return f"{name} is not as it was written (sha256 differs)"
    return None


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint without damage, and a line about each damaged one that is newer."""
    skipped: list[str] = []
    for step in reversed(steps(folder)):
        place = folder / f"step-{step}"
        problem = damage(place)
        if problem is None:
            return Checkpoint(place, step), skipped
        skipped.append(f"{place}: skipped: {problem}")
    return None, skipped


def prune(folder: Path, current: int, keep_last: int, keep: Collection[int]) -> None:
    """Remove checkpoints that are not needed, and unfinished writes of processes that are gone.

    Args:
        folder: the folder of the checkpoints.
        current: step of the run; later checkpoints were damaged when it was resumed.
        keep_last: number of checkpoints to keep up to `current`.
        keep: further steps to keep, such as the best one's.
    """
    newest = [step for step in steps(folder) if step <= current][-keep_last:]
    for step in steps(folder):
        if step not in newest and (step not in keep or step > current):
            _remove(folder / f"step-{step}")
    remove_abandoned(folder)
