"""metrics.jsonl: one JSON object a line for each step and evaluation, cut where a run is resumed."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mtlcli.errors import MtlError
from mtlcli.files import cannot_write, write_whole
from mtlcli.runs.names import METRICS, resume_command


@dataclass(frozen=True)
class LogLine:
    """A line of metrics.jsonl: `kind` is "step" or "evaluation", `step` counts from 1, `values` holds all keys."""

    kind: str
    step: int
    values: Mapping[str, Any]


def read_log(folder: Path) -> list[LogLine]:
    """Return the lines of a run's log, none where there is no log. An unfinished last line, as a kill leaves it, is left out.

    Raises:
        MtlError: another line is damaged, or the file cannot be read.
    """
    path = folder / METRICS
    texts = _lines(path)
    lines = []
    for number, text in enumerate(texts, start=1):
        line = _parsed(text)
        if line is not None:
            lines.append(line)
        elif number < len(texts):
            raise MtlError(
                f"{path}:{number}: damaged; remove the line, or the damaged ones with: {resume_command(folder)}"
            )
    return lines


def open_log(folder: Path, step: int) -> tuple[TextIO, int]:
    """Open a run's log to append, without the lines after `step`, which a resumed run writes again.

    Returns:
        The file, and the number of damaged lines up to `step` that were removed.

    Raises:
        MtlError: the file cannot be written.
    """
    path = folder / METRICS
    texts = _lines(path)
    lines = [_parsed(text) for text in texts]
    kept = [text for text, line in zip(texts, lines, strict=True) if line is not None and line.step <= step]
    if len(kept) < len(texts):
        write_whole(path, b"".join(kept))
    # An unfinished last line is what a kill leaves; it is of a step that is made again.
    damaged = sum(line is None for line in lines[:-1])
    try:
        return path.open("a", encoding="utf-8"), damaged
    except OSError as error:
        raise cannot_write(path, error) from error


def flush_log(log: TextIO) -> None:
    """Force the log to disk: before a checkpoint, so that no step up to it is missing after a power failure."""
    log.flush()
    os.fsync(log.fileno())


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MtlError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(text: bytes) -> LogLine | None:
    # A line that was cut can still be valid JSON, and the next line would be appended to it.
    if not text.endswith(b"\n"):
        return None
    try:
        values = json.loads(text)
        return LogLine(str(values["kind"]), int(values["step"]), values)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
