"""From a CSV, TSV, JSONL or plain text file to rows of text: strictly, row by row, in constant memory.

Text stays as it is spelled: "NA", "null" and "nan" are words, an empty field is "". What cannot be a row is reported
with its file and line. Only ``\\n`` and ``\\r\\n`` end a line, so lines are cut as bytes and decoded afterwards.
"""

import codecs
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

from mtlcli.errors import MtlError, did_you_mean, one_of

FormatName = Literal["csv", "tsv", "jsonl", "text"]
EXTENSIONS: dict[str, FormatName] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
SEPARATORS = {
    "\t": "tab",
    ",": "comma",
    ";": "semicolon",
}  # the order in which the first line of a CSV is asked for them
SHOWN = 20  # messages that BadRows keeps; it counts the others
LONGEST_RECORD = 1 << 24  # bytes of a row with a quote left open, before the quote counts as never closed
CLOSING = r'[^"]*+(?:""[^"]*+)*+"'  # from behind an opening quote to behind its closing one
CLOSING_TEXT, CLOSING_BYTES = re.compile(CLOSING), re.compile(CLOSING.encode())
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # what a JSON escape can smuggle in: NUL and halves of a surrogate pair

Record = tuple[int, bytes]  # the line where it starts, and its bytes


@dataclass(frozen=True, slots=True)
class Row:
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
        return f"{_number(self.count, 'row')} skipped ({'; '.join(self.lines())})" if self.count else ""


class _BadRow(Exception):
    """Why a record cannot be a row, and on which of its lines, counted from 0."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


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

    def __iter__(self) -> Iterator[Row]:
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
            with suppress(_BadRow):
                keys |= dict.fromkeys(_json_object(_text(raw)))
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


def iterate(source: FileSource, bad: BadRows) -> Iterator[Row]:
    """The good rows of `source`, each as soon as it is complete; the others are reported to `bad`.

    Raises: MtlError for what spoils the whole file (its header, a quote that never closes), behind the bad rows so far.
    """
    records, parse = source._open_records(), _parser(source)
    try:
        for line, raw in records:
            try:
                yield Row(line, parse(_text(raw)))
            except _BadRow as error:
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
            start = _left_open(raw, opening, inside=False)
            while start is not None:
                number, more = next(lines, (0, b""))
                size += len(more)
                if not more or size > LONGEST_RECORD:
                    raise MtlError(
                        f'{source.name}:{opened}: the quote opened here never closes; write a quote in a text as ""'
                    )
                parts.append(more)
                start = _left_open(more, opening, inside=True)
                opened = number if start else opened
            raw = b"".join(parts)
        yield line, raw


def _left_open(line: bytes, opening: re.Pattern[bytes], inside: bool) -> int | None:
    """Where the text begins that is still quoted at the end of `line`; 0 if on an earlier line, None if nowhere."""
    start = 0
    while True:
        if not inside:
            found = opening.search(line, start)
            if found is None:
                return None
            start = found.end()
        closing = CLOSING_BYTES.match(line, start)
        if closing is None:
            return start
        start, inside = closing.end(), False


def _text(raw: bytes) -> str:
    """The text of a record, without its line end."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start)
        raise _BadRow(f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8", line) from None
    if "\0" in text:
        raise _BadRow("found a NUL byte; expected text", raw.count(b"\n", 0, raw.index(b"\0")))
    return text.removesuffix("\n").removesuffix("\r")


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
            return tuple(_json_object(_text(raw)))
        text = _text(raw)
        fields = _fields(text, delimiter, source.format.quoting)
        return _names(text, fields, delimiter) if source.format.has_header else tuple(map(str, range(len(fields))))
    except _BadRow as error:
        if source.format.name == "jsonl":
            return ()  # reported when its turn comes
        raise MtlError(f"{source.name}:{line + error.line}: {error}") from None


def _names(text: str, fields: list[str], delimiter: str) -> tuple[str, ...]:
    """The columns of a header; one without a name gets its number, unless that is the name of another."""
    if len(fields) == 1 and (hint := _other_separator(text, 2, delimiter)):
        raise _BadRow(f"expected 2 or more columns, found 1{hint}")
    if "\r" in text and "\n" not in text:
        raise _BadRow("the header holds a carriage return; end lines with \\n or \\r\\n")
    names = [name.strip() for name in fields]
    for second, name in enumerate(names):
        if name and (first := names.index(name)) < second:
            raise _BadRow(f'columns {first} and {second} (counted from 0) are both called "{name}"')
    return tuple(name or (f"{i} (no name)" if str(i) in names else str(i)) for i, name in enumerate(names))


def _parser(source: FileSource) -> Callable[[str], dict[str, str]]:
    """The function from the text of a record to its values; it raises _BadRow."""
    columns, delimiter, quoting = source.columns, source._head.delimiter, source.format.quoting
    if source.format.name == "text":
        return lambda text: {"text": text}
    if source.format.name == "jsonl":
        empty, asked = dict.fromkeys(columns, ""), frozenset(source._asked)
        return lambda text: empty | _json_values(text, asked)

    def parse(text: str) -> dict[str, str]:
        fields = _fields(text, delimiter, quoting)
        if len(fields) != len(columns):
            hint = _other_separator(text, len(columns), delimiter) if len(fields) == 1 else ""
            if quoting and len(fields) > len(columns):
                hint = f" (is a text with a {SEPARATORS.get(delimiter, delimiter)} not quoted?)"
            raise _BadRow(f"expected {_number(len(columns), 'column')}, found {len(fields)}{hint}")
        return dict(zip(columns, fields, strict=True))

    return parse


def _fields(text: str, delimiter: str, quoting: bool) -> list[str]:
    if not quoting or '"' not in text:
        return text.split(delimiter)
    fields, position = [], 0
    while position <= len(text):
        quoted = CLOSING_TEXT.match(text, position + 1) if text.startswith('"', position) else None
        if quoted:
            end = quoted.end()
            fields.append(text[position + 1 : end - 1].replace('""', '"'))
            if end < len(text) and text[end] != delimiter:
                raise _BadRow(
                    f'column {len(fields) - 1} (counted from 0) goes on behind its closing quote; write a quote as ""'
                )
        else:
            end = text.find(delimiter, position)
            end = len(text) if end < 0 else end
            fields.append(text[position:end])
        position = end + 1
    return fields


def _other_separator(text: str, columns: int, delimiter: str) -> str:
    """` (is this comma-separated?)` if `text` has enough of them for so many columns."""
    for mark, word in SEPARATORS.items():
        if mark != delimiter and columns > 1 and text.count(mark) >= columns - 1:
            return f" (is this {word}-separated?)"
    return ""


def _json_object(text: str) -> dict[str, Any]:
    """The object on a line, its numbers as they are spelled."""
    try:
        found = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _BadRow(f"not JSON: {error.msg} (character {error.colno})") from None
    except RecursionError:
        raise _BadRow("not a row: nested too deeply") from None
    if not isinstance(found, dict):
        raise _BadRow("expected one JSON object on each line, found another value")
    return found


def _json_values(text: str, asked: frozenset[str]) -> dict[str, str]:
    """The values as text. A list or object is a bad row, but left out where other keys were asked for."""
    values = {}
    for key, value in _json_object(text).items():
        if isinstance(value, str):
            values[key] = value
        elif isinstance(value, bool):
            values[key] = "true" if value else "false"
        elif value is None:
            values[key] = ""
        elif key in asked or not asked:
            kind = "a list" if isinstance(value, list) else "an object"
            raise _BadRow(f'"{key}" is {kind}; expected text, a number, true, false or null')
    if "\\u" in text:
        for key, value in values.items():
            if escape := NOT_TEXT.search(value):
                raise _BadRow(f'"{key}" holds \\u{ord(escape[0]):04x}, which is no character of a text')
    return values


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _BadRow(f'key "{max(keys, key=keys.count)}" appears twice')
    return found


def _not_json(word: str) -> NoReturn:
    raise _BadRow(f'{word} is not JSON; write null for nothing, or "{word}" for the word')


DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_int=str, parse_float=str, parse_constant=_not_json)


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
