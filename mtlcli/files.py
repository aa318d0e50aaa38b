"""Files written whole or not at all, checksums and file modes."""

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mtlcli.errors import MtlError


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises MtlError for a damaged one."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise MtlError(f"{path}: damaged or missing ({error})") from error


def sha256(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def share(folder: Path) -> None:
    """Lets others read and write the files below a folder as they may the folder: safetensors makes files for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def sync(folder: Path) -> None:
    """Forces every file below a folder, and the folders themselves, to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Forces a folder's own entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
