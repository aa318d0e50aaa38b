"""Files written whole or not at all, checksums, scratch names that say who owns them, and file modes."""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from mtlcli import __version__
from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH = ".writing"
"""Prefix of everything that is not complete yet."""
FOREIGN_AGE = 86_400.0
"""Seconds without a change after which a scratch file of another host counts as abandoned."""
SEAL = "sha256"
"""Key of a sealed JSON file that holds the checksum of the other keys."""

_numbers = itertools.count()


@dataclass(frozen=True)
class Process:
    """A process by host, number and start time: numbers are used again, start times are not."""

    host: str
    pid: int
    start: str

    def is_alive(self) -> bool:
        """Return whether the process may still run; a process of another host always may."""
        if self.host != _host():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it belongs to another user
            pass
        start = _start_of(self.pid)
        return start is None or start == self.start


def this_process() -> Process:
    """Return this process; not cached, because a fork has a number of its own."""
    pid = os.getpid()
    return Process(_host(), pid, _start_of(pid) or "0")


def _host() -> str:
    """Return the host's name. Containers may share it and count processes separately, so the PID namespace is part of it."""
    name = re.sub(r"[^\w.-]", "_", socket.gethostname())[:64] or "localhost"
    try:
        namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        return name
    return f"{name}+{namespace}"


def _start_of(pid: int) -> str | None:
    """Return the start time of a process in clock ticks, "ended" for one that its parent has not collected yet, and None where
    the system does not tell."""
    try:
        # The name in parentheses may hold spaces, so fields are counted from behind it (proc(5): state is field 3, start 22).
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def scratch_path(folder: Path) -> Path:
    """Return an unused name in a folder for a file or folder that is not complete yet; the name says which process owns it."""
    owner = this_process()
    return folder / f"{SCRATCH}~{owner.host}~{owner.pid}~{owner.start}~{next(_numbers)}"


def remove_abandoned(folder: Path) -> None:
    """Remove the scratch files and folders that killed processes left in a folder.

    Scratch of a live process stays; of another host it stays for a day, because this host cannot tell whether its owner is alive.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.startswith(f"{SCRATCH}~") and _is_abandoned(folder / name):
            discard(folder / name)


def _is_abandoned(path: Path) -> bool:
    parts = path.name.split("~")
    if len(parts) != 5 or not parts[2].isdecimal():
        return False
    owner = Process(parts[1], int(parts[2]), parts[3])
    try:
        status = path.lstat()
    except OSError:
        return False
    if hasattr(os, "getuid") and status.st_uid != os.getuid():  # in the shared temporary folder
        return False
    if owner.host != _host():
        return time.time() - status.st_mtime > FOREIGN_AGE
    return not owner.is_alive()


def discard(path: Path) -> None:
    """Remove a file or a folder with its content, as far as the system lets us."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that is removed at the end; without `parent` in the system's temporary folder.

    What killed processes left beside it is removed first.
    """
    place = Path(gettempdir()) if parent is None else parent
    remove_abandoned(place)
    folder = scratch_path(place)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        discard(folder)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it holds either its old content or all of the new one, whenever the process is killed.

    Text is written as UTF-8; bytes of a file name that is not UTF-8 stay as they are. A device or pipe is written directly.

    Raises:
        MtlError: the file cannot be written.
    """
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(raw)
            return
        scratch = scratch_path(path.parent)
        try:
            scratch.write_bytes(raw)
            put(scratch, path)
        except OSError:
            discard(scratch)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def put(scratch: Path, path: Path) -> None:
    """Move a complete scratch file to its name; the content reaches the disk before the name does."""
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(scratch, path)
    sync_folder(path.parent)


def cannot_write(path: Path, error: OSError) -> MtlError:
    """Return the error line for a file that cannot be written."""
    return MtlError(f"{path}: cannot be written ({error.strerror or error})")


def seal(content: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON values, whatever their layout in a file."""
    text = json.dumps({key: value for key, value in content.items() if key != SEAL}, sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def sealed_text(content: Mapping[str, Any], version: int) -> str:
    """Return a JSON file with its format, the version that writes it, and the checksum of both and of all other content."""
    plain = json.loads(json.dumps({"format": version, "mtlcli": __version__, **content}))
    plain[SEAL] = seal(plain)
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    if not text.isascii() and not _is_utf8(text):
        text = json.dumps(plain, indent=1)
    return text + "\n"


def _is_utf8(text: str) -> bool:
    """Return whether a text is free of the surrogates by which Python stands for bytes of a file name."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_sealed(path: Path, content: Mapping[str, Any], version: int) -> None:
    """Write JSON values as a file that `read_sealed` checks. Raise MtlError where it cannot be written."""
    write_whole(path, sealed_text(content, version))


def read_sealed(path: Path, version: int, cure: str, *, printed: bool = False) -> dict[str, Any]:
    """Return the content of a file by `write_sealed`.

    Args:
        path: the file.
        version: the format that this version reads.
        cure: what to do about a missing or damaged file, which ends the error line.
        printed: also accept content with neither format nor checksum, as a command prints it.

    Raises:
        MtlError: one line, for a file that is missing, unreadable, not as it was written, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MtlError(f"{path}: is missing; {cure}") from None
    except OSError as error:
        raise MtlError(f"{path}: cannot be read ({error.strerror}); {cure}") from error
    except (ValueError, RecursionError) as error:
        raise MtlError(f"{path}: damaged (it is not JSON); {cure}") from error
    if not isinstance(content, dict):
        raise MtlError(f"{path}: damaged (found {type(content).__name__}, expected an object); {cure}")
    if printed and "format" not in content and SEAL not in content:
        return content
    written = content.get("format")
    # The first format had no checksum. Any other file without one has lost it.
    if (SEAL in content or written != 1) and content.get(SEAL) != seal(content):
        raise MtlError(f"{path}: damaged (it is not as it was written: sha256 differs); {cure}")
    if written != version:
        raise MtlError(
            f"{path}: format {written} was written by mtlcli {content.get('mtlcli', '(unknown)')}; this is mtlcli "
            f"{__version__}, which reads format {version}; use the version that wrote it"
        )
    return content


def unreadable(path: Path, writer: object, reason: str) -> MtlError:
    """Return the error for a file that is as it was written and yet not understood: another version wrote it."""
    return MtlError(
        f"{path}: was written by mtlcli {writer} and cannot be read by this mtlcli {__version__} ({reason[:120]}); use the "
        "version that wrote it"
    )


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Return the tensors of a file, on the CPU. Raise MtlError for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise MtlError(f"{path}: damaged or missing ({error})") from error


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def share(folder: Path) -> None:
    """Let others read and write the files below a folder as they may the folder: safetensors makes files for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def sync(folder: Path) -> None:
    """Force every file below a folder, and the folders themselves, to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Force a folder's own entries to disk, on file systems that can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
