"""The file formats that can be read, and the names of those that cannot."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mtlcli.errors import MtlError

FormatName = Literal["csv", "tsv", "jsonl", "json", "parquet", "conll", "conllu", "text"]
EXTENSIONS: dict[str, FormatName] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".conll": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bio": "conll",
    ".conllu": "conllu",
    ".conllup": "conllu",
}
EXCEL = "an Excel or OpenDocument workbook; save the sheet as CSV in UTF-8"
SUFFIXES = {".xlsx": EXCEL, ".xls": EXCEL, ".xlsm": EXCEL, ".ods": EXCEL}
SIGNATURES = {
    b"PK\x03\x04": "a zip archive; unpack it, and save an Excel sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": EXCEL,
    b"\x1f\x8b": "compressed with gzip; give a file whose name ends in .gz, or unpack it",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ\0": "compressed with xz; unpack it, or compress it with gzip",
    b"(\xb5/\xfd": "compressed with zstd; unpack it, or compress it with gzip",
    b"PAR1": "Parquet; give a file whose name ends in .parquet",
    b"ARROW1": "Arrow IPC; save it as Parquet, CSV or JSONL",
    b"SQLite format 3\0": "an SQLite database; export the table as CSV in UTF-8",
    b"%PDF-": "a PDF document; save its texts as CSV or plain text in UTF-8",
    b"\x89PNG": "a PNG image; expected text",
    b"\xff\xd8\xff": "a JPEG image; expected text",
    b"\x80\x04\x95": "a Python pickle; save it as CSV, JSONL or Parquet",
    b"\x80\x05\x95": "a Python pickle; save it as CSV, JSONL or Parquet",
    # UTF-32 begins like UTF-16, so it has to come first.
    b"\xff\xfe\0\0": "UTF-32; save the file as UTF-8",
    b"\0\0\xfe\xff": "UTF-32; save the file as UTF-8",
    b"\xff\xfe": "UTF-16; save the file as UTF-8",
    b"\xfe\xff": "UTF-16; save the file as UTF-8",
}
HEAD = 4096
"""Bytes of a file that its kind is recognized by."""


@dataclass(frozen=True)
class Format:
    """How a file is cut into rows.

    A CSV with the delimiter "" takes the delimiter of its first line; JSON, Parquet and plain text have none. `json` is an
    array of objects, a file of SQuAD, or else JSONL.
    """

    name: FormatName
    delimiter: str = ""
    quoting: bool = False
    header: bool = True
    gzip: bool = False

    @property
    def has_header(self) -> bool:
        """True if the first line names the columns, which only a CSV or TSV can have."""
        return self.header and self.name in ("csv", "tsv")

    @property
    def is_json(self) -> bool:
        """True if a row is a JSON object."""
        return self.name in ("json", "jsonl")

    @property
    def has_nesting(self) -> bool:
        """True if a value can be a list or an object."""
        return self.is_json or self.is_conll or self.name == "parquet"

    @property
    def is_conll(self) -> bool:
        """True if a row is a sentence, with a list of cells in each column."""
        return self.name in ("conll", "conllu")


def format_of(path: str | Path, *, name: FormatName | None = None, header: bool = True) -> Format:
    """Return the format called `name`, or that of the extension of `path`: plain text where it is unknown.

    TSV has no quoting, as in GLUE. CSV has that of RFC 4180 and may be separated by tabs, as in CS224N. A name that ends
    in `.gz` is that of a compressed file.
    """
    path = Path(path)
    gzip = path.suffix.lower() == ".gz"
    suffix = path.with_suffix("").suffix if gzip else path.suffix
    match name or EXTENSIONS.get(suffix.lower(), "text"):
        case "csv":
            return Format("csv", quoting=True, header=header, gzip=gzip)
        case "tsv":
            return Format("tsv", "\t", header=header, gzip=gzip)
        case other:
            return Format(other, gzip=gzip)


def check_is_text(name: str, head: bytes) -> None:
    """Raise for a file that is not text in UTF-8, by its first bytes.

    Raises:
        MtlError: the file is of another kind, which the line names with a remedy.
    """
    kind = next((kind for signature, kind in SIGNATURES.items() if head.startswith(signature)), None)
    # Workbooks are zip archives, so only the extension distinguishes them.
    if kind is not None and head.startswith(b"PK"):
        kind = SUFFIXES.get(Path(name).suffix.lower(), kind)
    elif kind is None and _looks_like_utf_16(head):
        kind = "UTF-16; save the file as UTF-8"
    if kind is not None:
        raise MtlError(f"{name}: is {kind}")


def _looks_like_utf_16(head: bytes) -> bool:
    """Recognize UTF-16 without a byte order mark: Latin letters leave every second byte 0, from the very first on."""
    return re.match(rb"(?:[\x09\x0a\x0d\x20-\x7e]\0){2}|(?:\0[\x09\x0a\x0d\x20-\x7e]){2}", head) is not None
