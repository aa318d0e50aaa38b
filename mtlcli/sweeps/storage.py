"""Where a sweep keeps its trials: a journal file beside them, or a database that several machines reach."""

import re
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from mtlcli.errors import MtlError
from mtlcli.files import locked

T = TypeVar("T")

JOURNAL = "journal.log"
SECONDS = 10.0
"""Seconds in which a database must answer."""
RETRY_SECONDS = 300.0
"""Seconds for which a call to a database that has gone away is repeated."""
PASSWORD = re.compile(r"(://[^:/@]*):[^@/]*@")


def import_optuna() -> Any:
    """Return the package. Raise MtlError where it is missing."""
    try:
        import optuna
    except ImportError:
        raise MtlError('mtl sweep needs the package optuna; install it: pip install "mtlcli[sweep]"') from None
    # Optuna logs several lines for each trial otherwise.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def masked(url: str) -> str:
    """Return a URL without its password."""
    return PASSWORD.sub(r"\1:***@", url)


def open_storage(url: str | None, folder: Path) -> Any:
    """Open the storage of Optuna: the journal in a folder, or a database.

    Raises:
        MtlError: the database does not answer within 10 seconds, its driver is missing, or the URL is of no kind that is known.
    """
    optuna = import_optuna()
    if url is None:
        return _journal(optuna, folder / JOURNAL)
    if url.startswith("sqlite"):
        raise MtlError(
            f"--storage: {url}: SQLite loses trials of several workers; leave --storage out for a journal file, or name a database "
            "such as postgresql+psycopg://user@host/name"
        )
    if "://" not in url:
        raise MtlError(f"--storage: found {url}: expected a URL such as postgresql+psycopg://user@host/name")
    # Tests a pooled connection before its use, because a server that was restarted has closed it.
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        # Below SECONDS, so that the driver's own error is shown.
        arguments["connect_args"] = {"connect_timeout": 5}
    outcome: list[Any] = []

    def connect() -> None:
        try:
            outcome.append(_patient(optuna.storages.RDBStorage)(url, engine_kwargs=arguments))
        except Exception as error:  # of the driver, whichever it is
            # An exception does not leave its thread.
            outcome.append(error)

    # A server that accepts a connection and never answers would hold the command for ever.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not outcome:
        raise MtlError(f"--storage: {masked(url)} does not answer within {SECONDS:.0f} seconds")
    if isinstance(outcome[0], ImportError):
        raise MtlError(
            f"--storage: {masked(url)}: {outcome[0]}; install the driver, for PostgreSQL: pip install psycopg[binary]"
        )
    if isinstance(outcome[0], Exception):
        reason = masked(" ".join(str(outcome[0]).split()))
        raise MtlError(f"--storage: {masked(url)} cannot be used ({reason[:200]})")
    return outcome[0]


def _journal(optuna: Any, path: Path) -> Any:
    """Open the journal, cut back to its last whole line: a killed writer may have left a part, which hides later lines."""
    backend = optuna.storages.journal
    with locked(path.with_name(f".{path.name}.repair")):
        # Under the journal's own lock, so that a line that another worker is writing is not taken for a torn one.
        lock = backend.JournalFileOpenLock(str(path))
        if path.is_file():
            lock.acquire()
            try:
                text = path.read_bytes()
                whole = text[: text.rfind(b"\n") + 1]
                if whole != text:
                    # Not deleted, so that what was cut off can be examined.
                    path.with_suffix(".torn").write_bytes(text[len(whole) :])
                    path.write_bytes(whole)
            finally:
                lock.release()
    return optuna.storages.JournalStorage(
        backend.JournalFileBackend(str(path), lock_obj=backend.JournalFileOpenLock(str(path)))
    )


def _patient(storage: Any) -> Any:
    """Return a subclass of a storage that repeats every call while the database is away.

    A call whose answer is lost runs twice, which is harmless: a trial without a worker fails after a minute, and the end of a trial is
    stored once.
    """
    optuna = import_optuna()
    # The tables are made by the constructor, which must not wait for a database that was never there.
    names = [name for name in optuna.storages.BaseStorage.__abstractmethods__ if hasattr(storage, name)]
    return type(storage.__name__, (storage,), {name: _repeating(getattr(storage, name)) for name in names})


def _repeating(call: Callable[..., T]) -> Callable[..., T]:
    """Return a method of a storage that is repeated for some minutes where the database has gone away.

    Raises:
        MtlError: the database stays away.
    """
    unanswered = import_optuna().exceptions.StorageInternalError

    @wraps(call)
    def patient(*arguments: Any, **more: Any) -> T:
        deadline, wait = time.monotonic() + RETRY_SECONDS, 1.0
        while True:
            try:
                return call(*arguments, **more)
            except unanswered as error:
                if time.monotonic() + wait > deadline:
                    raise MtlError(
                        f"--storage: has not answered for {RETRY_SECONDS:.0f} seconds; resume with the same command and --resume"
                    ) from error
                time.sleep(wait)
                wait = min(2 * wait, 30.0)

    return patient
