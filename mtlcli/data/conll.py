"""Sentences of CoNLL columns and of CoNLL-U (Nivre et al., LREC 2020, arXiv:2004.10643): from lines to lists of cells."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mtlcli.data.records import BadRecord, quotable

CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
"""Columns of CoNLL-U."""
NO_VALUE = "_"
VALUES = frozenset({"FORM", "LEMMA", "XPOS", "FEATS"})
"""Columns of CoNLL-U in which `_` is a value like any other; in the remaining ones it says that a word has no label."""
DOCUMENT_MARK = "-DOCSTART-"
NEW_DOCUMENT = re.compile(rb"#\s*newdoc\b(?:\s+id\s*=\s*(.*?))?\s*$")
"""A comment of CoNLL-U that marks the beginning of a document."""
DOCUMENT = "document"
"""Name of the column with the document of a sentence, where a file marks documents."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """The lines of a sentence, and its document: an id or a number from 1, "" before the first mark."""

    lines: bytes
    document: str = ""


def sentences(lines: Iterable[tuple[int, bytes]], *, comments: bool) -> Iterator[tuple[int, Sentence]]:
    """Yield each sentence with the number of its first line.

    A line of nothing but spaces and tabs ends a sentence. A document begins at a comment `# newdoc` or, without `comments`, at a first
    word -DOCSTART-, which is left out.
    """
    parts: list[bytes] = []
    start, documents, document = 0, 0, ""
    # The blank line at the end completes a last sentence that has none after it.
    for number, line in chain(lines, [(0, b"")]):
        if line.strip(b" \t\r\n"):
            start = start if parts else number
            parts.append(line)
            continue
        if parts and (name := _new_document(parts, comments)) is not None:
            documents += 1
            document = name or f"{documents}"
            if not comments:
                start, parts = start + 1, parts[1:]
        # A block of comments, such as a license at the top, is no sentence.
        if any(not comments or not part.startswith(b"#") for part in parts):
            yield start, Sentence(b"".join(parts), document)
        parts = []


def _new_document(parts: list[bytes], comments: bool) -> str | None:
    """Return the id of the document that begins with a sentence, "" for one without an id, None if none begins."""
    if not comments:
        return "" if parts[0].split(maxsplit=1)[0] == DOCUMENT_MARK.encode() else None
    marks = [match for part in parts if part.startswith(b"#") and (match := NEW_DOCUMENT.match(part.rstrip(b"\r\n")))]
    return (marks[-1][1] or b"").decode("utf-8", "replace") if marks else None


def separator_of(sentence: bytes) -> str:
    """Return what separates the columns: a tab if the first line holds one, else a space, which stands for several."""
    return "\t" if b"\t" in sentence.split(b"\n", 1)[0] else " "


def cells_of_line(line: str, separator: str) -> list[str]:
    """Return the cells of a line. Runs of spaces separate, but no other white space: that can be part of a word."""
    line = line.rstrip("\r")
    if separator == "\t":
        return line.split("\t")
    return [cell for cell in line.replace("\t", " ").split(" ") if cell]


def columns_of(text: str, columns: tuple[str, ...], separator: str, first_line: int) -> dict[str, list[str]]:
    """Return the cells of a sentence by column.

    Args:
        first_line: line of the file that has as many columns as are expected.

    Raises:
        BadRecord: a line has another number of columns, or an empty cell.
    """
    rows = []
    for number, line in enumerate(text.split("\n")):
        cells = cells_of_line(line, separator)
        if len(cells) != len(columns):
            word = f' (word "{quotable(cells[0])}")' if cells else ""
            raise BadRecord(
                f"expected {len(columns)} columns as on line {first_line}, found {len(cells)}{word}", number
            )
        for column, cell in zip(columns, cells, strict=True):
            if not cell:
                what = "word" if column == columns[0] else f"cell of column {column}"
                raise BadRecord(f"the {what} is empty", number)
        rows.append(cells)
    return {column: list(values) for column, values in zip(columns, zip(*rows, strict=True), strict=True)}


def conllu_columns(text: str, wanted: Iterable[str]) -> dict[str, Any]:
    """Return the cells of the words of a sentence by column, None for a word without a label.

    Ranges such as `1-2` and empty nodes such as `8.1` are no words. A wanted column such as `MISC.SpaceAfter` or `FEATS.Number` is one
    value of a column of NAME=VALUE pairs.

    Raises:
        BadRecord: a line has not ten columns, or the ids are not 1, 2, 3.
    """
    rows: list[list[str]] = []
    for number, line in enumerate(text.split("\n")):
        if line.startswith("#"):
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(CONLLU):
            raise BadRecord(f"expected 10 columns with tabs between them, found {len(cells)}", number)
        if "-" in cells[0] or "." in cells[0]:
            continue
        # An id that starts again at 1 means that the blank line between two sentences is missing.
        if cells[0] != str(len(rows) + 1):
            raise BadRecord(f"expected id {len(rows) + 1}, found {quotable(cells[0])}", number)
        if not cells[1]:
            raise BadRecord("the word is empty", number)
        rows.append(cells)
    if not rows:
        raise BadRecord("a sentence without words")
    by_column = dict(zip(CONLLU, map(list, zip(*rows, strict=True)), strict=True))
    columns: dict[str, Any] = {
        column: cells if column in VALUES else [None if cell == NO_VALUE else cell for cell in cells]
        for column, cells in by_column.items()
    }
    for column in wanted:
        name, _, key = column.partition(".")
        if key and name in by_column:
            columns[column] = [_value(cell, key) for cell in by_column[name]]
    return columns


def _value(cell: str, key: str) -> str | None:
    """Return the value of a key in NAME=VALUE pairs; None where it has none."""
    pairs = (pair.partition("=") for pair in cell.split("|"))
    return next((value for name, _, value in pairs if name == key), None)
