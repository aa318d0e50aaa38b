"""From a file of CSV, TSV, JSONL, JSON, Parquet or plain text to rows of text: strictly, row by row, in constant memory.

Text stays as it is spelled: "NA", "null" and "nan" are words, an empty field is "". A record that cannot be a row is
reported with its file and line. Only ``\\n`` and ``\\r\\n`` end a line, so lines are cut as bytes and decoded afterwards.
"""

import codecs
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from mtlcli.data.bad_rows import BadRows
from mtlcli.data.conll import (
    CONLLU,
    DOCUMENT,
    DOCUMENT_MARK,
    Sentence,
    cells_of_line,
    columns_of,
    conllu_columns,
    sentences,
    separator_of,
)
from mtlcli.data.formats import HEAD, Format, FormatName, check_is_text, format_of
from mtlcli.data.json_array import BLOCK, array_elements, begins_array
from mtlcli.data.parquet import parquet_columns, parquet_rows
from mtlcli.data.records import (
    SEPARATORS,
    BadRecord,
    cells_of,
    counted,
    fields_of,
    json_object,
    left_open,
    listed,
    names_of,
    other_separator,
    text_of,
)
from mtlcli.data.row_filter import RowFilter
from mtlcli.data.squad import begins_squad, questions
from mtlcli.data.tacred import with_spans
from mtlcli.errors import MtlError, did_you_mean, quotable

__all__ = ["BadRows", "FileSource", "Format", "FormatName", "TextRow", "format_of", "iterate"]

LONGEST_RECORD = 1 << 24
"""Bytes of a row with a quote left open, after which the quote counts as never closed."""
Record = tuple[int, Any]
"""The line where a record starts, and its bytes; of CoNLL, the sentence, and of Parquet, the number of the row and its values."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row: the line of the file where it starts, counted from 1, and its text in every column.

    `original` has the values of JSON and Parquet before they became text, and lists of cells for a sentence of CoNLL columns; it is
    empty for other formats. `lines` is such a sentence as it is written.
    """

    line: int
    values: dict[str, str]
    original: Mapping[str, Any] = field(default_factory=dict, compare=False)
    lines: str = field(default="", compare=False)


class FileSource:
    """The rows of a file, read again by every iteration, or of a stream such as standard input, read once.

    `where` is the filter that `sources.rows_of` applies to them.

    A stream is read no further than to the end of the row that is due; `path` then is a name for messages. A pipe given
    by its path is a stream as well. Without `format`, the extension of `path` decides.

    Raises:
        MtlError: there is no such file, or it is one of a kind that cannot be read.
    """

    def __init__(self, path: str | Path, *, format: Format | None = None, stream: BinaryIO | None = None) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.format = format or format_of(path)
        if stream is None:
            _must_be_readable(self.path)
        self._stream = stream
        # A named pipe exists without being a regular file, and can be read only once.
        self._once = stream is not None or not self.path.is_file()
        self._used = False
        self._requested: dict[str, bool] = {}  # whether a list or an object may be there, by column
        self.where: RowFilter | None = None
        if self._once and self.format.name == "parquet":
            raise MtlError(f"{self.name}: Parquet cannot be read from a stream; give the file's name")

    @property
    def is_stream(self) -> bool:
        """True if the rows can be read only once."""
        return self._once

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of `TextRow.values`: names from the header, and the number from 0 of a column without a name.

        For JSON these are the keys of the first object and those requested from `column`. Every row has them all.

        Raises:
            MtlError: the header is missing, repeats a name or is not separated as the format says.
        """
        # The document of a sentence of CoNLL is no column of its words.
        requested = (column for column in self._requested if column != DOCUMENT or not self.format.is_conll)
        return tuple(dict.fromkeys((*self._head.columns, *requested)))

    def column(self, wanted: str, *, nested: bool = False) -> str:
        """Return the key in `TextRow.values` for a column given by its name or, if nothing has that name, its number from 0.

        `nested` accepts lists and objects in this column, which `TextRow.original` holds.

        A key of JSON that the first object lacks is looked for in the other objects, unless the source is a stream. In a
        file with neither rows nor header nothing contradicts the name, and it is returned as it is.

        Raises:
            MtlError: there is no such column.
        """
        columns = self.columns
        if self.format.is_json:
            if wanted not in columns and not self._once:
                columns = self._keys_until(wanted)
        elif self.format.is_conll and wanted not in columns:
            wanted = self._conll_column(wanted)
        elif wanted not in columns and wanted.isdecimal() and int(wanted) < len(columns):
            wanted = columns[int(wanted)]
        if columns and wanted not in columns and wanted not in self._requested:
            raise MtlError(f'{self.name}: no column "{wanted}" among {listed(columns)}{did_you_mean(wanted, columns)}')
        if self.format.has_nesting:
            self._requested[wanted] = nested
        return wanted

    def _conll_column(self, wanted: str) -> str:
        """Return the column of a number, which counts from the end where it is negative, or of a key such as `MISC.SpaceAfter`."""
        columns = self._head.columns
        if wanted == DOCUMENT:
            self._must_mark_documents()
            self._requested[wanted] = False
            return wanted
        if wanted.removeprefix("-").isdecimal() and -len(columns) <= int(wanted) < len(columns):
            return columns[int(wanted)]
        if self.format.name == "conllu" and wanted.partition(".")[0] in ("FEATS", "MISC", "DEPS") and "." in wanted:
            self._requested[wanted] = True
            return wanted
        if wanted in CONLLU:
            raise MtlError(
                f'{self.name}: column "{wanted}" needs a CoNLL-U file (10 columns); this one has {counted(len(columns), "column")}; '
                "give its number from 0, or --set tasks.NAME.format=conllu"
            )
        return wanted

    def _must_mark_documents(self) -> None:
        """Raise MtlError if the file marks no documents. A stream, which can be read only once, is not asked."""
        if self._once:
            return
        if not any(sentence.document for _, sentence in self._open_records()):
            mark = "comments # newdoc" if self.format.name == "conllu" else f"lines {DOCUMENT_MARK}"
            raise MtlError(f'{self.name}: no column "{DOCUMENT}": the file marks no documents ({mark})')

    def all_columns(self) -> tuple[str, ...]:
        """Return the columns of all rows: for a file of JSON, the keys of every object; for a stream, those of the first."""
        if not self.format.is_json or self._once:
            return self.columns
        return tuple(dict.fromkeys((*self.columns, *self._keys_until(None))))

    def header_note(self, wanted: tuple[str, ...], remedy: str) -> str:
        """Return a sentence about the first line where columns are given by number although it was read as a header.

        It is empty where the header has no such names at these places, as with an index column without a name.

        Args:
            wanted: columns as they were asked for, by name or number.
            remedy: how to say that there is no header.
        """
        columns = self.columns
        named = [column for column in wanted if column.isdecimal() and column not in columns]
        if not self.format.has_header or not named:
            return ""
        places = [int(number) for number in named if int(number) < len(columns)]
        names = ", ".join(f'"{quotable(columns[place])}"' for place in places)
        return (
            f"{self.name}: the first line was read as the header (column {', '.join(named)}: {names}); "
            f"if it is a row, {remedy}"
        )

    def digest(self) -> str:
        """Return the sha256 of the bytes of the file, in hexadecimal."""
        if self._once:
            raise ValueError(f"{self.name} is a stream; a digest would use it up")
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __iter__(self) -> Iterator[TextRow]:
        """Yield the good rows; raise MtlError after the last of them if there were bad ones."""
        bad = BadRows()
        yield from iterate(self, bad)
        bad.raise_if_any()

    @cached_property
    def _head(self) -> "_Head":
        if self.format.name == "parquet":
            return _Head("", parquet_columns(self.path, self.name), iter(()))
        delimiter = self.format.delimiter
        records: Iterator[Record]
        if self.format.name == "json":
            records = self._json_records()
        else:
            lines: Iterator[Record] = self._lines()
            if self.format.is_conll:
                lines = sentences(lines, comments=self.format.name == "conllu")
            first = list(islice(lines, 1))
            if self.format.name == "conll":
                delimiter = separator_of(first[0][1].lines) if first else " "
            if self.format.name == "csv" and not delimiter:
                delimiter = next((mark for mark in SEPARATORS if first and mark.encode() in first[0][1]), ",")
            records = _records(self, delimiter, chain(first, lines))
        ahead = [] if self.format.name == "text" else list(islice(records, 1))
        columns = _first_columns(self, delimiter, ahead)
        if not self._once:  # every iteration opens the file again
            records = iter(())
        first_line = ahead[0][0] if ahead else 1
        return _Head(delimiter, columns, chain(ahead[int(self.format.has_header) :], records), first_line)

    def _keys_until(self, wanted: str | None) -> tuple[str, ...]:
        """Return the keys of all objects of JSON up to the first that has the wanted one."""
        keys: dict[str, None] = {}
        for _, raw in self._open_records():
            with suppress(BadRecord):
                keys |= dict.fromkeys(_json_row(raw))
            if wanted in keys:
                break
        return tuple(keys)

    def _open_records(self) -> Iterator[Record]:
        """Open the records after the header."""
        head = self._head
        if self.format.name == "parquet":
            return parquet_rows(self.path, self.name)
        if not self._once and self.format.name == "json":
            return self._json_records()
        if not self._once and self.format.is_conll:
            return sentences(self._lines(), comments=self.format.name == "conllu")
        if not self._once:
            # Skip the header as a record: quoted names can span several lines.
            return islice(_records(self, head.delimiter, self._lines()), int(self.format.has_header), None)
        if self._used:
            raise ValueError(f"{self.name} is a stream and has been read")
        self._used = True
        return head.records

    def _json_records(self) -> Iterator[Record]:
        """Yield the elements of an array, the questions of a file of SQuAD, or else the lines of JSONL."""
        with self._opened() as stream:
            # Reading a block would wait for rows that the writer of a pipe has not produced yet.
            head = stream.readline() if self._once else stream.read(BLOCK)
            if begins_array(head):
                yield from array_elements(head, stream, self.name, LONGEST_RECORD)
                return
            if begins_squad(head):
                # A SQuAD file is one object, so it is parsed as a whole.
                yield from questions(head + stream.read(), self.name)
                return
            if self._once:
                lines: Iterator[bytes] = chain([head] if head else [], stream)
                yield from _records(self, "", enumerate(lines, 1))
                return
        # The beginning was consumed above, so the file is opened again.
        yield from _records(self, "", self._lines())

    def _lines(self) -> Iterator[Record]:
        """Yield all lines with their numbers, the first without its byte order mark."""
        with self._opened() as stream:
            first = stream.readline()
            if self._once:
                check_is_text(self.name, first[:HEAD])
            if first := first.removeprefix(codecs.BOM_UTF8):
                yield 1, first
                yield from enumerate(stream, 2)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open the bytes of the source, unpacked; the first ones of a file are checked."""
        if self._stream is not None:
            # The caller closes its own stream.
            yield self._stream
            return
        try:
            # The try block includes the yield: damage of a gzip file shows only while its rows are read.
            with cast(BinaryIO, gzip.open(self.path) if self.format.gzip else self.path.open("rb")) as stream:
                if not self._once:
                    check_is_text(self.name, stream.read(HEAD))
                    stream.seek(0)
                yield stream
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            reason = str(error).rstrip(".")
            raise MtlError(f"{self.name}: is not a whole gzip file ({reason}); copy it again") from error


@dataclass(frozen=True)
class _Head:
    """What is known before the first row; `records`, those after the header, is for streams. `first_line` is that of a record."""

    delimiter: str
    columns: tuple[str, ...]
    records: Iterator[Record]
    first_line: int = 1


def iterate(source: FileSource, bad: BadRows) -> Iterator[TextRow]:
    """Yield the good rows of `source`, each as soon as it is complete; the others are reported to `bad`.

    Raises:
        MtlError: something spoils the whole file (its header, a quote that never closes); after the bad rows so far.
    """
    records, parse = source._open_records(), _parser(source)
    try:
        for line, raw in records:
            try:
                yield parse(line, raw)
            except BadRecord as error:
                more = raw.rstrip().count(b"\n") if source.format.quoting else 0  # of CoNLL, the error says the line
                where = f"; the row runs on to line {line + more}, is a quote left open?" if more else ""
                bad.report(source.name, line + error.line, f"{error}{where}", kind=error.kind)
    except MtlError as error:
        raise MtlError(*(bad.lines() if bad.policy == "error" else ()), *error.lines) from None


def _must_be_readable(path: Path) -> None:
    # Messages show the absolute path, because a relative one depends on the current folder.
    where = path.absolute()
    if path.is_dir():
        raise MtlError(f"{where}: is a folder; expected a file")
    if not where.parent.is_dir():
        raise MtlError(f"{where}: no such file; there is no folder {where.parent}")
    if not path.exists():
        near = did_you_mean(path.name, (other.name for other in where.parent.iterdir()))
        raise MtlError(f"{where}: no such file{near}")
    if not os.access(path, os.R_OK):
        raise MtlError(f"{where}: permission denied")


def _records(source: FileSource, delimiter: str, lines: Iterator[Record]) -> Iterator[Record]:
    """Yield lines, joined where a quote is left open, without the blank ones; in plain text a blank line is a row."""
    name, quoting = source.format.name, source.format.quoting
    opening = re.compile(b'(?:^|%b)"' % re.escape(delimiter.encode()))  # elsewhere in a field a quote is plain
    if name == "text" or source.format.is_conll:
        yield from lines
    for line, raw in lines:
        # In a table, a line of delimiters or spaces alone is a row of empty or blank cells.
        if raw.isspace() if source.format.is_json else raw in (b"\n", b"\r\n"):
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
                # start > 0: the earlier quote was closed on this line, and another one opened.
                opened = number if start else opened
            raw = b"".join(parts)
        yield line, raw


def _first_columns(source: FileSource, delimiter: str, ahead: list[Record]) -> tuple[str, ...]:
    """Return the columns, from the first record if there is one."""
    if source.format.name == "text":
        return ("text",)
    if source.format.name == "conllu":
        return CONLLU
    if source.format.name == "conll":
        first = text_of(ahead[0][1].lines.split(b"\n", 1)[0]) if ahead else ""
        return tuple(map(str, range(len(cells_of_line(first, delimiter)))))
    if not ahead:
        if source.format.has_header:
            raise MtlError(f"{source.name}: is empty; expected a header line")
        return ()
    line, raw = ahead[0]
    try:
        if source.format.is_json:
            return tuple(_json_row(raw))
        text = text_of(raw)
        fields = fields_of(text, delimiter, source.format.quoting)
        return names_of(text, fields, delimiter) if source.format.has_header else tuple(map(str, range(len(fields))))
    except BadRecord as error:
        if source.format.is_json:  # the row is reported when its turn comes
            return () if source._once else _columns_of_a_good_row(source)
        raise MtlError(f"{source.name}:{line + error.line}: {error}") from None


def _columns_of_a_good_row(source: FileSource) -> tuple[str, ...]:
    """Return the keys of the first object in a file of JSON that can be read, none if there is no such object."""
    lines = source._json_records() if source.format.name == "json" else _records(source, "", source._lines())
    for _, raw in lines:
        with suppress(BadRecord):
            return tuple(_json_row(raw))
    return ()


def _json_row(raw: bytes) -> dict[str, Any]:
    return with_spans(json_object(text_of(raw)))


def _parser(source: FileSource) -> Callable[[int, Any], TextRow]:
    """Return the function from a record to its row; it raises BadRecord."""
    columns, delimiter, quoting = source.columns, source._head.delimiter, source.format.quoting
    empty, requested = dict.fromkeys(columns, ""), dict(source._requested)

    def plain(line: int, raw: bytes) -> TextRow:
        return TextRow(line, {"text": text_of(raw)})

    def json(line: int, raw: bytes) -> TextRow:
        row = _json_row(raw)
        return TextRow(line, empty | cells_of(row, requested), row)

    def parquet(line: int, row: dict[str, Any]) -> TextRow:
        return TextRow(line, empty | cells_of(row, requested), row)

    def conll(line: int, sentence: Sentence) -> TextRow:
        text = text_of(sentence.lines)
        if source.format.name == "conllu":
            cells = conllu_columns(text, requested)
        else:
            cells = columns_of(text, columns, delimiter, source._head.first_line)
        # `_` as in the file, where `conllu_columns` has None.
        joined = {column: " ".join(cell or "_" for cell in values) for column, values in cells.items()}
        if DOCUMENT in requested:
            # Numbers begin at 1 in every file, and documents of different files are different ones.
            number = sentence.document.isdecimal()
            joined[DOCUMENT] = f"{source.path.name} {sentence.document}" if number else sentence.document
        return TextRow(line, empty | joined, cells, text)

    def separated(line: int, raw: bytes) -> TextRow:
        text = text_of(raw)
        fields = fields_of(text, delimiter, quoting)
        if len(fields) != len(columns):
            hint = other_separator(text, len(columns), delimiter) if len(fields) == 1 else ""
            if quoting and len(fields) > len(columns):
                hint = f" (is a text with a {SEPARATORS.get(delimiter, delimiter)} not quoted?)"
            raise BadRecord(f"expected {counted(len(columns), 'column')}, found {len(fields)}{hint}")
        return TextRow(line, dict(zip(columns, fields, strict=True)))

    match source.format.name:
        case "text":
            return plain
        case "json" | "jsonl":
            return json
        case "conll" | "conllu":
            return conll
        case "parquet":
            return parquet
        case _:
            return separated
