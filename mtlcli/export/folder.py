"""Export folders: written whole, and replaced only on request."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mtlcli import __version__
from mtlcli.errors import MtlError, one_of
from mtlcli.files import cannot_write, sha256, share, sync, sync_folder
from mtlcli.runs.names import MANIFEST
from mtlcli.runs.record import model_digest, read_record
from mtlcli.runs.saved_model import scratch_in


def check_output(folder: Path, mark: str, content: str, *, overwrite: bool) -> None:
    """Check that a folder can take an export, before anything slow.

    Args:
        folder: the folder.
        mark: file by which an export of this kind is recognized.
        content: what the folder would hold, for messages: `an encoder`.
        overwrite: whether an export of the same kind may be replaced.

    Raises:
        MtlError: it is a file, or holds something else, or an export and `overwrite` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    existing = _names(folder)
    if existing and mark not in existing:
        raise MtlError(f"--output: {folder} holds something else than {content}; choose another folder")
    if existing and not overwrite:
        raise MtlError(f"--output: {folder} holds {content}: add --overwrite to replace it")


def replace_folder(
    folder: Path, mark: str, content: str, write: Callable[[Path], None], *, overwrite: bool
) -> None:  # fmt: skip
    """Write a folder whole. The arguments are those of `check_output`; `write` writes the files into an empty folder.

    Raises:
        MtlError: see `check_output`; or the folder holds files that no export wrote, or it cannot be written.
    """
    check_output(folder, mark, content, overwrite=overwrite)
    # Absolute, because the parent of `.` would be itself.
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder.parent, error) from error
    # Beside the folder, because a rename does not cross file systems.
    with scratch_in(folder.parent) as scratch:
        place = scratch / "export"
        place.mkdir()
        write(place)
        # After writing, because only now the names of the new files are known.
        if others := sorted(_names(folder) - _names(place) - _listed(folder)):
            raise MtlError(f"--output: {folder} holds other files too ({one_of(others[:3])}); choose another folder")
        # safetensors makes files that only their owner can read. All is on disk before the rename, so that a power
        # failure leaves no empty files under the final name.
        share(scratch)
        sync(scratch)
        # The old files go when the scratch folder is removed: a kill between the renames leaves no folder, never a
        # mixed one.
        if folder.exists():
            folder.rename(scratch / "replaced")
        place.rename(folder)
        sync_folder(folder.parent)


def write_manifest(folder: Path, run: Path, facts: Mapping[str, Any]) -> None:
    """Write export.json: these facts, the version of mtlcli, and digests of the run's model and of all files in the folder."""
    # Before the manifest is written, so that it does not list itself.
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    content = {"mtlcli": __version__, **facts, "run": model_digest(read_record(run)), "files": listed}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _listed(folder: Path) -> set[str]:
    """Return the names in a folder that its manifest lists, and its own; none without a manifest."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        # Files in subfolders are listed by path, and the caller compares top-level names.
        return {MANIFEST, *(str(name).partition("/")[0] for name in files)}
    except (OSError, ValueError, KeyError, TypeError):
        # Nothing then counts as exported, so `replace_folder` deletes nothing that it does not recognize.
        return set()
