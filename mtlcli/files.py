"""Atomic writes, checksums, scratch files that name their owner, and file modes."""

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
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from mtlcli import __version__
from mtlcli.errors import MtlError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH = ".writing"
"""Prefix of everything that is not complete yet."""
FOREIGN_AGE = 86_400.0
"""Seconds without a change after which a scratch file of another host counts as abandoned."""
SEAL = "sha256"
"""Key of a sealed JSON file that holds the checksum of the other keys."""

T = TypeVar("T")

# Makes the names of scratch files of one process different.
_numbers = itertools.count()
_held: set[Path] = set()
"""Paths of the locks that this process holds."""


@dataclass(frozen=True)
class Process:
    """Identify a process by host, PID and start time, because the system reuses PIDs."""

    host: str
    pid: int
    start: str

    def is_alive(self) -> bool:
        """Return whether the process may still run; a process of another host always may."""
        if self.host != _host():
            return True
        try:
            # Signal 0 only checks whether the process exists.
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it belongs to another user
            pass
        start = _start_of(self.pid)
        # Where there is a /proc, a process that has just ended is in it no more.
        return not Path("/proc/self/stat").exists() if start is None else start == self.start


def this_process() -> Process:
    """Return this process; not cached, because a fork has another PID."""
    pid = os.getpid()
    # "0" where there is no /proc.
    return Process(_host(), pid, _start_of(pid) or "0")


def _host() -> str:
    """Return the host's name. Containers may share it and count processes separately, so the PID namespace is part of it."""
    # Without `~`, which separates the parts of a scratch name.
    name = re.sub(r"[^\w.-]", "_", socket.gethostname())[:64] or "localhost"
    try:
        namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        return name
    return f"{name}+{namespace}"


def _start_of(pid: int) -> str | None:
    """Return the start time of a process in clock ticks, "ended" for a zombie, and None if /proc is not available."""
    try:
        # The name in parentheses may hold spaces, so fields are counted from behind it (proc(5): state is field 3, start 22).
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def scratch_path(folder: Path) -> Path:
    """Return an unused path in a folder for an incomplete file or folder; its name identifies the process that owns it."""
    owner = this_process()
    return folder / f"{SCRATCH}~{owner.host}~{owner.pid}~{owner.start}~{next(_numbers)}"


def remove_abandoned(folder: Path) -> None:
    """Remove the scratch files and folders that killed processes left in a folder.

    Scratch files of running processes are kept. Those of another host are kept for a day, because this host cannot check
    whether their owner is running.
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
    # `scratch_path` makes no such name, so the file is not removed.
    if len(parts) != 5 or not parts[2].isdecimal():
        return False
    owner = Process(parts[1], int(parts[2]), parts[3])
    try:
        status = path.lstat()
    except OSError:
        return False
    if hasattr(os, "getuid") and status.st_uid != os.getuid():  # another user's, in the shared temporary folder
        return False
    if owner.host != _host():
        return time.time() - status.st_mtime > FOREIGN_AGE
    return not owner.is_alive()


def discard(path: Path) -> None:
    """Remove a file or a folder with its content, ignoring errors."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder in `parent`, by default the system's temporary folder, and remove it at the end.

    Scratch files of killed processes beside it are removed first.
    """
    place = Path(gettempdir()) if parent is None else parent
    remove_abandoned(place)
    folder = scratch_path(place)
    # Private, because the system's temporary folder is shared; `scratch_in` opens it up for runs.
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        discard(folder)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: it has its old content or all of the new one, whenever the process is killed.

    Text is written as UTF-8; bytes of a file name that is not UTF-8 are preserved. A device or pipe is written directly.

    Raises:
        MtlError: the file cannot be written.
    """
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    try:
        # A rename would replace the device, such as /dev/stdout, with a regular file.
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(raw)
            return
        # In the same folder, because a rename is atomic only within one file system.
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
    """Rename a complete scratch file to its final name, after its content has reached the disk."""
    # Otherwise a power failure after the rename could leave an empty file under the final name.
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(scratch, path)
    sync_folder(path.parent)


def cannot_write(path: Path, error: OSError) -> MtlError:
    """Return the error line for a file that cannot be written."""
    return MtlError(f"{path}: cannot be written ({error.strerror or error})")


def seal(content: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON values, independent of their order and layout in a file."""
    text = json.dumps({key: value for key, value in content.items() if key != SEAL}, sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def sealed_text(content: Mapping[str, Any], version: int) -> str:
    """Return the text of a JSON file with its format, the version that writes it, and a checksum of all content."""
    # As a reader will get it, with lists for tuples and texts as keys, so that the checksum is the same.
    plain = json.loads(json.dumps({"format": version, "mtlcli": __version__, **content}))
    plain[SEAL] = seal(plain)
    # Readable where UTF-8 can express the text, escaped where a file name has bytes that are not UTF-8.
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    if not text.isascii() and not _is_utf8(text):
        text = json.dumps(plain, indent=1)
    return text + "\n"


def _is_utf8(text: str) -> bool:
    """Return whether a text has none of the surrogates with which Python represents undecodable bytes of a file name."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_sealed(path: Path, content: Mapping[str, Any], version: int) -> None:
    """Write JSON values as a file that `read_sealed` verifies. Raise MtlError if it cannot be written."""
    write_whole(path, sealed_text(content, version))


def read_sealed(path: Path, version: int, cure: str, *, printed: bool = False) -> dict[str, Any]:
    """Return the content of a file written by `write_sealed`.

    Args:
        path: the file.
        version: the format that this version reads.
        cure: what to do about a missing or damaged file; ends the error line.
        printed: also accept content with neither format nor checksum, as a command prints it.

    Raises:
        MtlError: the file is missing, unreadable, damaged, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MtlError(f"{path}: is missing; {cure}") from None
    except OSError as error:
        raise MtlError(f"{path}: cannot be read ({error.strerror}); {cure}") from error
    # json raises RecursionError for lists that are nested too deeply.
    except (ValueError, RecursionError) as error:
        raise MtlError(f"{path}: damaged (it is not JSON); {cure}") from error
    if not isinstance(content, dict):
        raise MtlError(f"{path}: damaged (found {type(content).__name__}, expected an object); {cure}")
    if printed and "format" not in content and SEAL not in content:
        return content
    format_found = content.get("format")
    # The first format had no checksum. Any other file without one has lost it.
    if (SEAL in content or format_found != 1) and content.get(SEAL) != seal(content):
        raise MtlError(f"{path}: damaged (sha256 differs); {cure}")
    if format_found != version:
        raise MtlError(
            f"{path}: format {format_found} was written by mtlcli {content.get('mtlcli', '(unknown)')}; this is mtlcli "
            f"{__version__}, which reads format {version}; use the version that wrote it"
        )
    return content


def read_sealed_as(kind: type[T], path: Path, version: int, cure: str, *, printed: bool = False) -> T:
    """Return the content of a sealed file as an instance of a dataclass; the arguments are those of `read_sealed`.

    Raises:
        MtlError: as `read_sealed`, and if the content does not fit the dataclass.
    """
    # Imported here, because `mtl --help` imports this module and should not wait for pydantic.
    from pydantic import TypeAdapter, ValidationError

    content = read_sealed(path, version, cure, printed=printed)
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        detail = error.errors()[0]
        reason = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        raise unreadable(path, content.get("mtlcli"), reason) from error


def unreadable(path: Path, writer: object, reason: str) -> MtlError:
    """Return the error for a file whose checksum is right but whose content cannot be used: another version wrote it."""
    return MtlError(
        f"{path}: was written by mtlcli {writer} and cannot be read by this mtlcli {__version__} ({reason[:120]}); use the "
        "version that wrote it"
    )


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Return the tensors of a safetensors file, on the CPU. Raise MtlError if it is damaged or missing."""
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
    """Give the files below a folder the folder's read and write permissions: safetensors makes them private to their owner."""
    # Without the execute bits, which folders need and these files do not.
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
        # Some network file systems cannot sync a folder; the files themselves are synced.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine holds the lock of this path, and hold it within the block.

    The system releases the lock of a process that ends, however it ends. Where a file system has no locks, nothing waits, and a process
    never waits for itself.
    """
    file = None
    if fcntl is not None and path not in _held:
        with suppress(OSError):
            file = _locked_file(path)
            _held.add(path)
    try:
        yield
    finally:
        if file is not None:
            _held.discard(path)
            # Removed while the lock is still held: a process that waits for it then finds another file at the path, or
            # none, and tries again.
            path.unlink(missing_ok=True)
            file.close()


def _locked_file(path: Path) -> BinaryIO:
    """Return the file of this path with a lock on it."""
    while True:
        file = path.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        # The holder before removes its file, and whoever comes then makes a new one, whose lock is the one that counts.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
