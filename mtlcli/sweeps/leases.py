"""Which worker has which trial: a lock on a file beside the trial, which the system releases when the worker ends."""

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from mtlcli.errors import MtlError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".lease"


class Lease:
    """The right to write to the folder of a trial, until `release` or the end of the process."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file

    def release(self) -> None:
        """Let others have the trial."""
        # This releases the lock. The file stays: after a removal, two workers could lock two files of one name.
        self._file.close()


def take(trial: Path) -> Lease | None:
    """Take the lease of a trial's folder; None where a living worker holds it.

    Raises:
        MtlError: this system has no locks on files.
    """
    if fcntl is None:
        raise MtlError("mtl sweep needs locks on files, which this system does not have")
    trial.parent.mkdir(parents=True, exist_ok=True)
    path = trial.with_name(trial.name + SUFFIX)
    file = path.open("ab")
    try:
        # `flock` belongs to the open file and not to the process, so it also excludes other threads.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    with suppress(OSError):
        os.utime(path)
    return Lease(path, file)
