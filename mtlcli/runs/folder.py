"""Open a run folder for a new run, to resume a run, or to replace one; one process at a time."""

import hashlib
import itertools
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from mtlcli.config.layers import Layer, dump, read_recipe
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.files import SCRATCH, discard, remove_abandoned, write_whole
from mtlcli.runs import checkpoint
from mtlcli.runs.card_file import CARD, is_unchanged
from mtlcli.runs.checkpoint import Checkpoint
from mtlcli.runs.lock import FolderLock, check_writable, holder_of, lock_folder, make_folder
from mtlcli.runs.names import (
    CHECKPOINTS,
    COMMAND,
    CONFIG,
    ENCODER,
    LOCK,
    MANIFEST,
    MERGE,
    ONNX,
    PREDICTIONS,
    RECORD,
    RESULTS,
    RUN_FILES,
    RUN_FOLDERS,
    SENTENCE_TRANSFORMERS,
    TRACKER_FILES,
)
from mtlcli.runs.record import must_be_as_written, read_record
from mtlcli.runs.results import read_results

CHECKSUM = "# sha256 of the lines below, as written by mtlcli: "
ENCODER_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Files that transformers and tokenizers write, for a run whose record cannot be read."""


@dataclass(frozen=True)
class FolderState:
    """What a run folder holds.

    `checkpoint` is the one to resume from, None for a run that starts at step 1. `stored` is the run's configuration.
    `is_complete` says that the run has ended and that its model and results are as they were written. `warnings` are to be
    shown even where everything else is quiet.
    """

    checkpoint: Checkpoint | None = None
    stored: Layer | None = None
    is_complete: bool = False
    warnings: tuple[str, ...] = ()


@dataclass
class RunFolder:
    """A run folder that this process alone may write, until `release`.

    `replaces`: a run in it is removed by `clear`. `lock` is None in a process that works for the one that holds it.
    """

    path: Path
    state: FolderState
    replaces: bool
    lock: FolderLock | None
    extra_warnings: tuple[str, ...] = field(default=())

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint to resume from."""
        return self.state.checkpoint

    @property
    def stored(self) -> Layer | None:
        """The configuration of the run to resume, None where there is none."""
        return self.state.stored

    @property
    def is_complete(self) -> bool:
        """Whether the run to resume has ended, with model and results as they were written."""
        return self.state.is_complete

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines that are shown even where everything else is quiet."""
        return (*self.extra_warnings, *self.state.warnings)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let other processes use the folder. A folder made by `claim` that is still empty is removed."""
        if self.lock is not None:
            self.lock.release()

    def check(self) -> None:
        """Raise MtlError if another process has taken the folder over."""
        if self.lock is not None:
            self.lock.check()

    def clear(self) -> list[str]:
        """Remove what an earlier run wrote, and return the names of everything else that is left in the folder."""
        return remove_run(self.path)


def claim(folder: Path, *, resume: bool = False, overwrite: bool = False) -> RunFolder:
    """Open a run folder for this process alone, before anything slow; nothing in it is removed yet.

    Raises:
        MtlError: the folder cannot be written, is in use, holds something and neither flag is given, or holds no run.
    """
    _check_flags(resume, overwrite)
    if holder_of(folder) is None:  # a folder that is refused is not even locked
        inspect_folder(folder, resume=resume, overwrite=overwrite)
    lock = lock_folder(folder)
    try:
        remove_abandoned(folder)
        remove_abandoned(folder / CHECKPOINTS)
        # Again under the lock: another process may have written since.
        state = inspect_folder(folder, resume=resume, overwrite=overwrite)
    # KeyboardInterrupt included: in a notebook the process goes on, and would keep the lock.
    except BaseException:
        lock.release()
        raise
    # A resumed run without a checkpoint starts again, so it replaces the files of the first attempt.
    return RunFolder(folder, state, overwrite or (resume and state.checkpoint is None), lock, takeover(lock))


def claim_new(folder: Path) -> RunFolder:
    """Make a new run folder of this name, or with `-2`, `-3` and so on behind it where another process was faster."""
    lock = lock_new(folder)
    return RunFolder(lock.folder, FolderState(), False, lock)


def lock_new(folder: Path) -> FolderLock:
    """Make and lock a new folder of this name, or with `-2`, `-3` and so on behind it where there is one already."""
    while True:
        path = free_name(folder)
        try:
            made = make_folder(path, new=True)
        except FileExistsError:  # another process was faster
            continue
        lock = lock_folder(path)
        # `lock_folder` found the folder, so it would not remove it on release.
        lock.made = made
        return lock


def free_name(folder: Path) -> Path:
    """Return a path where nothing is yet: this one, or one with `-2`, `-3` and so on behind it."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    # `lexists`, because a dangling link takes a name, too.
    return next(path for path in itertools.chain([folder], numbered) if not os.path.lexists(path))


def takeover(lock: FolderLock) -> tuple[str, ...]:
    """Return a warning where a lock was taken over from a process of another host."""
    if lock.taken_from is None:
        return ()
    return (f"{lock.folder}: taken over from {lock.taken_from}, which gave no sign of life",)


def inspect_folder(folder: Path, *, resume: bool, overwrite: bool) -> FolderState:
    """Return what a folder holds for a run that is new, resumed, or replaces another; writes nothing.

    Raises:
        MtlError: the folder holds something and neither flag is given, or holds no run, or no undamaged checkpoint.
    """
    _check_flags(resume, overwrite)
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    check_writable(folder)
    if is_free(folder):
        return FolderState()
    if not (resume or overwrite):
        raise MtlError(
            f"--output: {folder} is not empty: add --resume to resume the run in it, or --overwrite to replace it"
        )
    # --overwrite, too, removes only what a run wrote.
    if not _holds_run(folder):
        flag, rest = (
            ("--overwrite", "nothing in it is deleted") if overwrite else ("--resume", "there is none to resume")
        )
        raise MtlError(f"{flag}: {folder} is not a run folder, so {rest}; choose another --output")
    if overwrite:
        return FolderState()
    if (folder / MERGE).is_file():
        raise MtlError(f"--resume: {folder} was merged, not trained; train a new run from it with --init {folder}")
    newest, skipped = checkpoint.latest(folder / CHECKPOINTS)
    # A start from step 1 would replace the run, which only --overwrite may do.
    if newest is None and skipped:
        raise MtlError(*skipped, f"{folder}: no undamaged checkpoint to resume from; start over with --overwrite")
    warnings = list(skipped)
    if newest is not None and skipped:
        warnings.append(f"{folder}: resuming from step {newest.step} instead")
    stored = _stored(folder, newest, warnings)
    is_complete = _is_complete(folder)
    if newest is None and not is_complete:
        warnings.append(f"{folder}: there is no checkpoint yet; starting from step 1")
    return FolderState(newest, stored, is_complete, tuple(warnings))


def _check_flags(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise MtlError("--resume and --overwrite exclude each other; give one")


def is_free(folder: Path) -> bool:
    """Return whether a folder is absent or empty; a lock and unfinished writes of a killed process do not count."""
    if not folder.is_dir():
        return True
    try:
        return all(path.name == LOCK or path.name.startswith(SCRATCH) for path in folder.iterdir())
    except OSError as error:
        raise MtlError(f"--output: {folder} cannot be read ({error.strerror}); choose another folder") from error


def _holds_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG, RECORD)) or (folder / CHECKPOINTS).is_dir()


def _is_complete(folder: Path) -> bool:
    try:
        read_results(folder)
        must_be_as_written(folder, read_record(folder))
    except MtlError:
        return False
    return True


# The configuration


def write_config(folder: Path, config: Config) -> None:
    """Write config.yaml, with a checksum in a comment. Raise MtlError where it cannot be written."""
    text = dump(config.plain())
    write_whole(folder / CONFIG, f"{CHECKSUM}{_checksum(text)}\n{text}")


def stored_layer(folder: Path) -> Layer | None:
    """Return the configuration of the run in a folder, None where there is none; damage is repaired from a checkpoint."""
    newest, _ = checkpoint.latest(folder / CHECKPOINTS)
    return _stored(folder, newest, [])


def _stored(folder: Path, newest: Checkpoint | None, warnings: list[str]) -> Layer | None:
    """Return the configuration in config.yaml, else the one that the checkpoint or run.json keeps, and add a warning."""
    path = folder / CONFIG
    try:
        problem = _damage(path)
        if problem is None:
            return read_recipe(path)
    except MtlError as error:
        problem = error.lines[0].removeprefix(f"{path}: ")
    # The checkpoint before run.json, which is as old as the best step: the run may have been resumed with other
    # settings since.
    values, source = (newest.config(), newest.folder) if newest is not None else (None, path)
    if values is None and (folder / RECORD).is_file():
        try:
            values, source = read_record(folder)["config"], folder / RECORD
        except MtlError:
            values = None
    if values is None:
        if newest is not None or path.exists():
            warnings.append(
                f"{path}: {problem}, and nothing else in the folder holds the configuration; give it again with --config or "
                "flags"
            )
        return None
    warnings.append(
        f"{path}: {problem}; using the configuration in {source}, and writing it again. Change a run with flags or --config"
    )
    return Layer(values)


def _damage(path: Path) -> str | None:
    """Return what is wrong with config.yaml, None where it is as it was written."""
    try:
        head, _, text = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not text.strip():
        return "is empty"
    if head != f"{CHECKSUM}{_checksum(text)}".encode():
        return "is not as it was written (sha256 differs)"
    return None


def _checksum(text: str | bytes) -> str:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return hashlib.sha256(raw).hexdigest()


def add_command(folder: Path, command: str) -> None:
    """Add a line to command.txt. Raise MtlError where it cannot be written."""
    path = folder / COMMAND
    try:
        # Bytes, because a command may name a file whose name is not UTF-8.
        before = path.read_bytes()
    except OSError:
        before = b""
    write_whole(path, before + command.encode("utf-8", "surrogateescape") + b"\n")


# Removing


def remove_run(folder: Path) -> list[str]:
    """Remove the files that a run wrote to a folder, which stays, and return the names of everything else in it.

    Checkpoints and configuration go last, so that a kill leaves a folder that can still be replaced.
    """
    # Before run.json is removed, which lists them.
    listed = _files_of_model(folder)
    # results.json first: without it the run no longer counts as finished.
    for name in (RESULTS, *(name for name in RUN_FILES if name not in (RESULTS, CONFIG))):
        discard(folder / name)
    for path in (folder / PREDICTIONS).glob("*.jsonl"):
        discard(path)
    if is_unchanged(folder):
        discard(folder / CARD)
    for path in (*listed, *_files_of_exports(folder)):
        discard(path)
    for step in checkpoint.steps(folder / CHECKPOINTS):
        discard(folder / CHECKPOINTS / f"step-{step}")
    for name in RUN_FOLDERS:
        _remove_empty(folder / name)
    # What a link leads to does not belong to the run.
    if not (folder / TRACKER_FILES).is_symlink():
        shutil.rmtree(folder / TRACKER_FILES, ignore_errors=True)
    discard(folder / CONFIG)
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK and not path.name.startswith(SCRATCH))


def _files_of_model(folder: Path) -> list[Path]:
    """Return the files of the encoder that a run exported."""
    try:
        return [folder / name for name in read_record(folder)["files"]]
    except MtlError:
        return [path for path in (folder / ENCODER).rglob("*") if path.suffix in ENCODER_SUFFIXES and path.is_file()]


def _files_of_exports(folder: Path) -> list[Path]:
    """Return the files of exports in a run, which are those of its model."""
    files = []
    for place in (folder / ONNX, folder / SENTENCE_TRANSFORMERS):
        try:
            names = [*json.loads((place / MANIFEST).read_text(encoding="utf-8"))["files"], MANIFEST]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        # A damaged manifest must not lead out of the folder.
        files += [place / name for name in names if ".." not in Path(name).parts and not Path(name).is_absolute()]
    return files


def _remove_empty(folder: Path) -> None:
    """Remove a folder and the folders in it as far as they are empty."""
    if not folder.is_dir() or folder.is_symlink():
        return
    # In reverse order a folder comes after its content.
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    if not any(folder.iterdir()):
        folder.rmdir()
