"""From a CSV, TSV, JSONL or plain text file to rows of text: strictly, row by row, in constant memory.

Text stays as it is spelled: "NA", "null" and "nan" are words, an empty field is "". What cannot be a row is reported
with its file and line. Only ``\\n`` and ``\\r\\n`` end a line, so lines are cut as bytes and decoded afterwards.
"""

import codecs
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal

from mtlcli.data.records import (
    SEPARATORS,
    BadRecord,
    counted,
    fields_of,
    json_object,
    json_values,
    left_open,
    names_of,
    other_separator,
    text_of,
)
from mtlcli.errors import MtlError, did_you_mean, one_of

FormatName = Literal["csv", "tsv", "jsonl", "text"]
EXTENSIONS: dict[str, FormatName] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
SHOWN = 20  # messages that BadRows keeps; it counts the others
LONGEST_RECORD = 1 << 24  # bytes of a row with a quote left open, before the quote counts as never closed
Record = tuple[int, bytes]  # the line where it starts, and its bytes


@dataclass(frozen=True, slots=True)
class TextRow:
    """The line of the file where a row starts, counted from 1, and its text in every column."""

    line: int
    values: dict[str, str]


@dataclass(frozen=True)
class Format:
    """How a file is cut into rows. The delimiter "" of a CSV is found in its first line; JSONL and text have none."""

    name: FormatName
    delimiter: str = ""
    quoting: bool = False
    header: bool = True

    @property
    def has_header(self) -> bool:
        """Whether the first line names columns, as only that of a CSV or TSV can."""
        return self.header and self.name in ("csv", "tsv")


def format_of(path: str | Path, *, name: FormatName | None = None, header: bool = True) -> Format:
    """The format called `name`, or the one that the extension of `path` stands for; plain text where it is unknown.

    TSV has no quoting, as in GLUE. CSV has that of RFC 4180 and may be separated by tabs, as in CS224N.
    """
    match name or EXTENSIONS.get(Path(path).suffix.lower(), "text"):
        case "csv":
            return Format("csv", quoting=True, header=header)
        case "tsv":
            return Format("tsv", "\t", header=header)
        case other:
            return Format(other)


@dataclass
class BadRows:
    """What was wrong with which rows, of one file or of several.

    Under "error", `raise_if_any` raises it all at once; under "skip", `summary` tells what was left out. `count` is of
    rows: a row reported twice in a row, for two bad labels, counts once.
    """

    policy: Literal["error", "skip"] = "error"
    count: int = 0
    reports: int = 0
    messages: list[str] = field(default_factory=list)  # the first SHOWN
    _last: tuple[str, int] | None = None

    def report(self, path: str | Path, line: int, message: str) -> None:
        """Notes that the row at `line` of `path` cannot be used."""
        row = (str(path), line)
        self.count += row != self._last
        self.reports += 1
        self._last = row
        if self.reports <= SHOWN:
            self.messages.append(f"{path}:{line}: {message}")

    def lines(self) -> list[str]:
        """The messages, and how many more there were."""
        more = self.reports - len(self.messages)
        return [*self.messages, f"... and {more} more"] if more else [*self.messages]

    def raise_if_any(self) -> None:
        """Raises: MtlError with one line per message, unless the policy is to skip."""
        if self.reports and self.policy == "error":
            raise MtlError(*self.lines())

    def summary(self) -> str:
        """`2 rows skipped (a.csv:7: label is empty; a.csv:9: label is empty)`, or "" if there is nothing to tell."""
        return f"{counted(self.count, 'row')} skipped ({'; '.join(self.lines())})" if self.count else ""


class FileSource:
    """The rows of a file, read anew by every iteration, or of a stream such as standard input, read once.

    A stream is read no further than to the end of the row that is due; `path` then is a name for messages. A pipe given
    by its path is a stream as well. Without `format`, the extension of `path` decides.

    Raises: MtlError if there is no such file.
    """

    def __init__(self, path: str | Path, *, format: Format | None = None, stream: BinaryIO | None = None) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.format = format or format_of(path)
        if stream is None:
            _must_be_readable(self.path)
        self._stream = stream
        self._once = stream is not None or not self.path.is_file()
        self._used = False
        self._asked: list[str] = []

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of `Row.values`: names from the header, and the number from 0 of a column without a name.

        For JSONL these are the keys of the first object and those that `column` was asked for. Every row has them all.

        Raises: MtlError if the header is missing, repeats a name or is not separated as the format says.
        """
        return tuple(dict.fromkeys((*self._head.columns, *self._asked)))

    def column(self, wanted: str) -> str:
        """The key in `Row.values` for a column given by its name or, if nothing has that name, its number from 0.

        A JSONL key that the first object lacks is looked for in the other objects, unless the source is a stream. In a
        file with neither rows nor header nothing contradicts the name, and it is returned as it is.

        Raises: MtlError if there is no such column.
        """
        columns = self.columns
        if self.format.name == "jsonl":
            if wanted not in columns and not self._once:
                columns = self._keys_until(wanted)
        elif wanted not in columns and wanted.isdecimal() and int(wanted) < len(columns):
            return columns[int(wanted)]
        if columns and wanted not in columns:
            raise MtlError(f'{self.name}: no column "{wanted}" among {one_of(columns)}{did_you_mean(wanted, columns)}')
        if self.format.name == "jsonl":
            self._asked.append(wanted)
        return wanted

    def digest(self) -> str:
        """sha256 of the bytes of the file, in hexadecimal."""
        if self._once:
            raise ValueError(f"{self.name} is a stream; a digest would use it up")
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __iter__(self) -> Iterator[TextRow]:
        """The good rows; after the last of them MtlError, if there were bad ones."""
        bad = BadRows()
        yield from iterate(self, bad)
        bad.raise_if_any()

    @cached_property
    def _head(self) -> "_Head":
        lines = self._lines()
        first = list(islice(lines, 1))
        delimiter = self.format.delimiter
        if self.format.name == "csv" and not delimiter:
            delimiter = next((mark for mark in SEPARATORS if first and mark.encode() in first[0][1]), ",")
        records = _records(self, delimiter, chain(first, lines))
        ahead = [] if self.format.name == "text" else list(islice(records, 1))
        columns = _first_columns(self, delimiter, ahead)
        if not self._once:  # rows come from the file anew
            records = iter(())
        return _Head(delimiter, columns, chain(ahead[int(self.format.has_header) :], records))

    def _keys_until(self, wanted: str) -> tuple[str, ...]:
        """JSONL: the keys of all objects up to the first that has the wanted one."""
        keys: dict[str, None] = {}
        for _, raw in self._open_records():
            with suppress(BadRecord):
                keys |= dict.fromkeys(json_object(text_of(raw)))
            if wanted in keys:
                break
        return tuple(keys)

    def _open_records(self) -> Iterator[Record]:
        """The records after the header."""
        head = self._head
        if not self._once:
            return islice(_records(self, head.delimiter, self._lines()), int(self.format.has_header), None)
        if self._used:
            raise ValueError(f"{self.name} is a stream and has been read")
        self._used = True
        return head.records

    def _lines(self) -> Iterator[Record]:
        """All lines with their numbers, the first without its byte order mark."""
        with self.path.open("rb") if self._stream is None else nullcontext(self._stream) as stream:
            if first := stream.readline().removeprefix(codecs.BOM_UTF8):
                yield 1, first
                yield from enumerate(stream, 2)


@dataclass(frozen=True)
class _Head:
    """What is known before the first row; `records`, those after the header, is for streams."""

    delimiter: str
    columns: tuple[str, ...]
    records: Iterator[Record]


def iterate(source: FileSource, bad: BadRows) -> Iterator[TextRow]:
    """The good rows of `source`, each as soon as it is complete; the others are reported to `bad`.

    Raises: MtlError for what spoils the whole file (its header, a quote that never closes), behind the bad rows so far.
    """
    records, parse = source._open_records(), _parser(source)
    try:
        for line, raw in records:
            try:
                yield TextRow(line, parse(text_of(raw)))
            except BadRecord as error:
                more = raw.rstrip().count(b"\n")
                where = f"; the row runs on to line {line + more}, is a quote left open?" if more else ""
                bad.report(source.name, line + error.line, f"{error}{where}")
    except MtlError as error:
        raise MtlError(*(bad.lines() if bad.policy == "error" else ()), *error.lines) from None


def _must_be_readable(path: Path) -> None:
    where = path.absolute()
    if path.is_dir():
        raise MtlError(f"{where}: is a folder; expected a file")
    if not where.parent.is_dir():
        raise MtlError(f"{where}: no such file; there is no folder {where.parent}")
    if not path.exists():
        near = did_you_mean(path.name, (other.name for other in where.parent.iterdir()))
        raise MtlError(f"{where}: no such file{near}")
    if not os.access(path, os.R_OK):
        raise MtlError(f"{where}: may not be read; ask its owner for permission")


def _records(source: FileSource, delimiter: str, lines: Iterator[Record]) -> Iterator[Record]:
    """Lines, joined where a quote is left open, without the blank ones; in plain text a blank line is a row."""
    name, quoting = source.format.name, source.format.quoting
    opening = re.compile(b'(?:^|%b)"' % re.escape(delimiter.encode()))  # elsewhere in a field a quote is plain
    if name == "text":
        yield from lines
    for line, raw in lines:
        if raw.isspace() if name == "jsonl" else raw in (b"\n", b"\r\n"):
            continue
        if quoting and b'"' in raw:
            opened, parts, size = line, [raw], len(raw)
            start = left_open(raw, opening, inside=False)
            while start is not None:
                number, more = next(lines, (0, b""))
                size += len(more)
                if not more or size > LONGEST_RECORD:
                    raise MtlError(
                        f'{source.name}:{opened}: the quote opened here never closes; write a quote in a text as ""'
                    )
                parts.append(more)
                start = left_open(more, opening, inside=True)
                opened = number if start else opened
            raw = b"".join(parts)
        yield line, raw


def _first_columns(source: FileSource, delimiter: str, ahead: list[Record]) -> tuple[str, ...]:
    """The columns, from the first record if there is one."""
    if source.format.name == "text":
        return ("text",)
    if not ahead:
        if source.format.has_header:
            raise MtlError(f"{source.name}: is empty; expected a header line")
        return ()
    line, raw = ahead[0]
    try:
        if source.format.name == "jsonl":
            return tuple(json_object(text_of(raw)))
        text = text_of(raw)
        fields = fields_of(text, delimiter, source.format.quoting)
        return names_of(text, fields, delimiter) if source.format.has_header else tuple(map(str, range(len(fields))))
    except BadRecord as error:
        if source.format.name == "jsonl":
            return ()  # reported when its turn comes
        raise MtlError(f"{source.name}:{line + error.line}: {error}") from None


def _parser(source: FileSource) -> Callable[[str], dict[str, str]]:
    """The function from the text of a record to its values; it raises BadRecord."""
    columns, delimiter, quoting = source.columns, source._head.delimiter, source.format.quoting
    if source.format.name == "text":
        return lambda text: {"text": text}
    if source.format.name == "jsonl":
        empty, asked = dict.fromkeys(columns, ""), frozenset(source._asked)
        return lambda text: empty | json_values(text, asked)

    def parse(text: str) -> dict[str, str]:
        fields = fields_of(text, delimiter, quoting)
        if len(fields) != len(columns):
            hint = other_separator(text, len(columns), delimiter) if len(fields) == 1 else ""
            if quoting and len(fields) > len(columns):
                hint = f" (is a text with a {SEPARATORS.get(delimiter, delimiter)} not quoted?)"
            raise BadRecord(f"expected {counted(len(columns), 'column')}, found {len(fields)}{hint}")
        return dict(zip(columns, fields, strict=True))

    return parse
