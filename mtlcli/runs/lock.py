"""Locks on folders: one process at a time writes to a run, a group of seeds, a study or an ensemble.

A lock is the file `.lock` with host, process and time. On one host the system's own lock on the file decides, and is released
when the process dies. Hosts that share a disk may not see each other's locks, so a live process also touches the file.
"""

import errno
import json
import os
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from mtlcli.errors import MtlError
from mtlcli.files import Process, cannot_write, this_process
from mtlcli.runs.names import LOCK

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

HEARTBEAT = 30.0
"""Seconds between two touches of the file."""
ABANDONED = 300.0
"""Seconds without a touch after which the lock of another host is taken over."""


@dataclass(frozen=True)
class Holder:
    """The process that wrote a lock, and its local time when it did."""

    process: Process
    since: str

    def __str__(self) -> str:
        host = self.process.host.partition("+")[0]
        name = "this process" if self.process == this_process() else f"process {self.process.pid} on {host}"
        return f"{name} since {self.since}"


@dataclass
class FolderLock:
    """The lock on a folder, held until `release`. `made` are the folders that did not exist before, outermost first."""

    folder: Path
    handle: int
    made: list[Path]
    taken_from: Holder | None = None
    is_lost: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def start(self) -> None:
        """Begin to touch the file, in a thread of its own: preparing the data can take longer than ABANDONED."""
        # A daemon, because it must not keep a process alive that has ended without `release`.
        threading.Thread(target=self._touch, name="folder-lock", daemon=True).start()

    def _touch(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            try:
                if not self._is_current():
                    self.is_lost = True
                    return
                # By its handle: another process may have put a lock of its own at the path.
                os.utime(self.handle)
            except OSError:  # a shared disk that is away for a while
                continue

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.handle), os.stat(self.folder / LOCK))
        except FileNotFoundError:  # removed by hand; nobody else holds the folder
            return True

    def check(self) -> None:
        """Raise MtlError if another process has taken the folder over, as after a long sleep of this machine."""
        if self.is_lost:
            raise MtlError(f"{self.folder}: another process took this folder over while this one gave no sign of life")

    def release(self) -> None:
        """Remove the lock, and the folders made for it that are still empty."""
        if self._ended.is_set():
            return
        self._ended.set()
        with suppress(OSError):
            # A lock that another process has taken over stays.
            if self._is_current():
                (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self.handle)
        for folder in reversed(self.made):
            with suppress(OSError):
                folder.rmdir()


def lock_folder(folder: Path, flag: str = "--output") -> FolderLock:
    """Make a folder if there is none, and lock it.

    Raises:
        MtlError: the folder cannot be made or written, or another process holds it.
    """
    made = make_folder(folder, flag)
    try:
        lock = _lock(folder, made, flag)
    except BaseException as error:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            line = cannot_write(folder, error).lines[0]
            raise MtlError(f"{flag}: {line}; choose another folder") from error
        raise
    lock.start()
    return lock


def make_folder(folder: Path, flag: str = "--output", *, new: bool = False) -> list[Path]:
    """Make a folder and those above it, and return those that were made, outermost first.

    Raises:
        FileExistsError: there is such a folder, and `new` was asked for.
        MtlError: there is a file of that name, or the folder cannot be made.
    """
    if folder.is_file():
        raise MtlError(f"{flag}: {folder} is a file; expected a folder")
    made: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        for path in reversed(missing):
            path.mkdir(exist_ok=not (new and path == folder))
            made.append(path)
    # `lock_new` catches it and tries another name. It is an OSError, so this comes first.
    except FileExistsError:
        raise
    except OSError as error:
        line = cannot_write(folder, error).lines[0]
        raise MtlError(f"{flag}: {line}; choose another folder") from error
    if not folder.is_dir():
        raise MtlError(f"{flag}: {folder} is not a folder, or a link that leads nowhere; choose another one")
    # The folder was there before `missing` was determined.
    if new and not made:
        raise FileExistsError(str(folder))
    return made


def check_writable(folder: Path) -> None:
    """Raise MtlError if the folder, or the nearest one above it that exists, cannot be written."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not place.is_dir():
        reason = os.strerror(errno.ENOTDIR)
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES)
    else:
        return
    raise MtlError(f"--output: {folder}: cannot be written ({reason}); choose another folder")


def holder_of(folder: Path) -> Holder | None:
    """Return the process that holds a folder, None if it is free."""
    try:
        # Without O_CREAT, because a question must not create a lock.
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        holder = _read(handle)
        locked = _try_lock(handle)
        if locked is False:
            # The holder has the lock and has not written its name yet.
            return holder or Holder(Process("unknown host", 0, ""), "just now")
        return holder if holder is not None and _holds(holder, handle, folder, proven=locked is True) else None
    finally:
        # Also releases the lock that `_try_lock` took to find out.
        os.close(handle)


def _lock(folder: Path, made: list[Path], flag: str) -> FolderLock:
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked, holder = _try_lock(handle), _read(handle)
            if locked is not False and not _is_at(handle, path):  # its holder released and removed it in between
                os.close(handle)
                continue
            if locked is False or (holder is not None and _holds(holder, handle, folder, proven=locked is True)):
                raise _in_use(folder, holder, handle, flag)
            _write(handle, Holder(this_process(), time.strftime("%Y-%m-%d %H:%M:%S")))
            foreign = holder if holder is not None and holder.process.host != this_process().host else None
            if foreign is not None:
                # Two hosts may take over the same lock at once: the one that wrote last has it.
                time.sleep(0.2)
                current = _read(handle)
                if current is not None and current.process != this_process():
                    raise _in_use(folder, current, handle, flag)
            return FolderLock(folder, handle, made, foreign)
        except BaseException:
            with suppress(OSError):
                os.close(handle)
            raise


def _try_lock(handle: int) -> bool | None:
    """Return whether the system's lock could be had; None where the system or the disk has no locks."""
    if fcntl is None:
        return None
    try:
        # Not `lockf`, whose lock would end as soon as `holder_of` closes another handle of the file.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a shared disk without locks: the content of the file decides
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _read(handle: int) -> Holder | None:
    """Return what a lock says, None where it says nothing or nothing readable."""
    try:
        values = json.loads(os.pread(handle, 4096, 0))
        return Holder(Process(str(values["host"]), int(values["pid"]), str(values["start"])), str(values["since"]))
    except (ValueError, KeyError, TypeError):
        return None


def _write(handle: int, holder: Holder) -> None:
    process = holder.process
    values = {"host": process.host, "pid": process.pid, "start": process.start, "since": holder.since}
    text = json.dumps(values).encode("ascii") + b"\n"
    os.ftruncate(handle, 0)
    os.pwrite(handle, text, 0)
    # For other hosts of a shared disk, which decide by this content.
    os.fsync(handle)


def _holds(holder: Holder, handle: int, folder: Path, *, proven: bool) -> bool:
    """Return whether the process of a lock still holds it. `proven`: the system gave its lock to this process, so that no other
    process of this host has it."""
    if holder.process.host == this_process().host:
        return not proven and holder.process.is_alive()
    return _silence(handle, folder) < ABANDONED


def _silence(handle: int, folder: Path) -> float:
    """Return the seconds since a lock was touched, by the clock of its disk: those of two hosts differ."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime - os.fstat(handle).st_mtime
    except OSError:
        return time.time() - os.fstat(handle).st_mtime


def _in_use(folder: Path, holder: Holder | None, handle: int, flag: str) -> MtlError:
    user = "another process, which began just now" if holder is None else str(holder)
    note = ""
    if holder is not None and holder.process.host != this_process().host:
        note = (
            f" (its last sign of life was {max(0.0, _silence(handle, folder)):.0f} s ago; a lock is taken over after "
            f"{ABANDONED:.0f} s without one)"
        )
    return MtlError(f"{flag}: {folder} is in use by {user}{note}; wait for it, stop it, or choose another folder")
