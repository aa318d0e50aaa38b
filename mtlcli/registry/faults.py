"""Report failures of third-party plugins in one line that names the plugin, instead of a traceback through mtlcli."""

import linecache
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from mtlcli.errors import MtlError
from mtlcli.registry.builtins import FAMILIES
from mtlcli.registry.lookup import Entry, entry_of

SOURCE = str(Path(__file__).parent.parent)
FRAMES = 3
"""Number of lines of a plugin's traceback that a message shows."""


@contextmanager
def plugin_call(plugin: object, method: str, expected: str) -> Iterator[None]:
    """Report a failure inside the block as an error that the author of a third-party plugin can fix.

    A failure of a built-in plugin is a bug of mtlcli and keeps its traceback. Running out of memory is not converted, because
    the caller explains it by the size of the batch.

    Args:
        plugin: the instance, or the class while it is being built.
        method: the method that is called.
        expected: the result that the contract of the family expects of the method.

    Raises:
        MtlError: the plugin raised inside the block.
    """
    try:
        yield
    except Exception as error:
        entry = _foreign(plugin)
        # By name, because torch is not imported here.
        if entry is None or isinstance(error, MtlError) or type(error).__name__ == "OutOfMemoryError":
            raise
        message = " ".join(str(error).split())
        if isinstance(error, _Broken):
            raise MtlError(f"{_named(entry)}: {method} {message}; expected {expected}") from error
        raise MtlError(
            f"{_named(entry)}: {method} raised {type(error).__name__}: {message[:300]}{_own_frames(error.__traceback__)}; "
            f"expected {expected}"
        ) from error


class _Broken(TypeError):
    """Signal a result that breaks the contract of its family."""


def require(condition: bool, problem: str) -> None:
    """Raise inside a `plugin_call` if a result breaks the contract; `problem` completes "METHOD ..."."""
    if not condition:
        raise _Broken(problem)


def _foreign(plugin: object) -> Entry | None:
    """Return the entry of a third-party plugin; None for a built-in one, or for a class that was not looked up by name."""
    entry = entry_of(plugin if isinstance(plugin, type) else type(plugin))
    # By the target, because a built-in class can also be selected as package.module:Class.
    return None if entry is None or entry.target.startswith("mtlcli.") else entry


def _named(entry: Entry) -> str:
    origin = "" if entry.distribution == "(local)" else f" from {entry.origin}"
    return f'{FAMILIES[entry.family].kind} "{entry.name}"{origin}'


def _own_frames(traceback: TracebackType | None) -> str:
    """Return the innermost lines of a traceback outside mtlcli and torch, the innermost one first."""
    places = []
    while traceback is not None:
        file, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        places.append((file, line, linecache.getline(file, line).strip()))
        traceback = traceback.tb_next
    # torch's own frames say nothing about the plugin, but a plugin may itself be installed in site-packages.
    frames = [place for place in places if not place[0].startswith(SOURCE) and "/torch/" not in place[0]]
    shown = [f"{file}:{line} ({code})" if code else f"{file}:{line}" for file, line, code in reversed(frames[-FRAMES:])]
    return f" at {', called from '.join(shown)}" if shown else ""
