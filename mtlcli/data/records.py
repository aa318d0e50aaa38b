"""From a row as it is written, a line or several of a file, to its texts: quotes, separators and JSON, read strictly."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from mtlcli.errors import one_of, quotable

SEPARATORS = {
    "\t": "tab",
    ",": "comma",
    ";": "semicolon",
}  # the order in which the first line of a CSV is asked for them
# Possessive quantifiers: a long text without a closing quote fails without backtracking.
CLOSING = r'[^"]*+(?:""[^"]*+)*+"'  # from behind an opening quote to behind its closing one
CLOSING_TEXT, CLOSING_BYTES = re.compile(CLOSING), re.compile(CLOSING.encode())
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # what a JSON escape can smuggle in: NUL and halves of a surrogate pair


LONGEST_LIST = 20
"""Columns that a message lists."""


class BadRecord(Exception):
    """A record that cannot be a row: the reason, and on which of its lines it is, counted from 0.

    `kind` names a fault that a whole file is likely to have in many rows, so that one message stands for them.
    """

    def __init__(self, message: str, line: int = 0, kind: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.kind = kind


class Number(str):
    """A number of JSON as it is spelled: `0.50` stays different from `0.5`, and a long one keeps all its digits."""


def listed(columns: Iterable[str]) -> str:
    """Return names of columns for a message: the first ones where there are many."""
    names = [quotable(column) for column in columns]
    more = len(names) - LONGEST_LIST
    return one_of(names) if more <= 1 else f"{one_of(names[:LONGEST_LIST])} and {more} more"


def left_open(line: bytes, opening: re.Pattern[bytes], inside: bool) -> int | None:
    """Return where the text begins that is still quoted at the end of `line`: 0 if on an earlier line, None if nowhere."""
    start = 0
    while True:
        if not inside:
            opened = opening.search(line, start)
            if opened is None:
                return None
            start = opened.end()
        closing = CLOSING_BYTES.match(line, start)
        if closing is None:
            return start
        start, inside = closing.end(), False


def text_of(raw: bytes) -> str:
    """Return the text of a record, without its line end."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        line = raw.count(b"\n", 0, error.start)
        # Windows-1252 agrees with Latin-1 except from 0x80 to 0x9f, where Latin-1 has only control characters.
        letter = bytes([byte]).decode("cp1252", "replace")
        guess = f"{letter} in Latin-1 or Windows-1252" if letter.isprintable() and letter != "\ufffd" else ""
        raise BadRecord(
            f"byte 0x{byte:02x} is not UTF-8{guess and f' ({guess})'}; save the file as UTF-8", line, "encoding"
        ) from None
    if "\0" in text:
        raise BadRecord("found a NUL byte; expected text", raw.count(b"\n", 0, raw.index(b"\0")), "NUL")
    return text.removesuffix("\n").removesuffix("\r")


def names_of(text: str, fields: list[str], delimiter: str) -> tuple[str, ...]:
    """Return the columns of a header. One without a name gets its number, unless that is the name of another."""
    # A single name that holds another separator is more likely a header with that separator.
    if len(fields) == 1 and (hint := other_separator(text, 2, delimiter)):
        raise BadRecord(f"expected 2 or more columns, found 1{hint}")
    # The line end itself is removed already, so \r separates the rows. A quoted name may hold \r\n.
    if "\r" in text and "\n" not in text:
        raise BadRecord("the header holds a carriage return; end lines with \\n or \\r\\n")
    names = [name.strip() for name in fields]
    for second, name in enumerate(names):
        if name and (first := names.index(name)) < second:
            raise BadRecord(f'columns {first} and {second} (counted from 0) are both called "{quotable(name)}"')
    return tuple(name or (f"{i} (no name)" if str(i) in names else str(i)) for i, name in enumerate(names))


def fields_of(text: str, delimiter: str, quoting: bool) -> list[str]:
    """Return the fields of a row of CSV or TSV."""
    # Most rows have no quote, and `split` is much faster than the loop below.
    if not quoting or '"' not in text:
        return text.split(delimiter)
    fields, position = [], 0
    # `<=`, because a delimiter at the end is followed by one more field, which is empty.
    while position <= len(text):
        quoted = CLOSING_TEXT.match(text, position + 1) if text.startswith('"', position) else None
        if quoted:
            end = quoted.end()
            fields.append(text[position + 1 : end - 1].replace('""', '"'))
            if end < len(text) and text[end] != delimiter:
                raise BadRecord(
                    f'column {len(fields) - 1} (counted from 0) goes on behind its closing quote; write a quote as ""'
                )
        else:
            end = text.find(delimiter, position)
            end = len(text) if end < 0 else end
            fields.append(text[position:end])
        position = end + 1
    return fields


def other_separator(text: str, columns: int, delimiter: str) -> str:
    """Return ` (is this comma-separated?)` if `text` has enough commas for this number of columns, or another separator."""
    for mark, word in SEPARATORS.items():
        if mark != delimiter and columns > 1 and text.count(mark) >= columns - 1:
            return f" (is this {word}-separated?)"
    return ""


def json_object(text: str) -> dict[str, Any]:
    """Return the object that a row of JSON is, its numbers as they are spelled."""
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg} (character {error.colno})", error.lineno - 1) from None
    except RecursionError:
        raise BadRecord("not a row: nested too deeply") from None
    if not isinstance(value, dict):
        listed = "a list; if the whole file is one, name it .json" if isinstance(value, list) else "another value"
        raise BadRecord(f"expected one JSON object on each line, found {listed}")
    # Strict UTF-8 has no surrogates and `text_of` rejects NUL, so only an escape can produce one of them.
    if "\\u" in text:
        for key, content in value.items():
            if escape := next((found for text in _texts_in(content) if (found := NOT_TEXT.search(text))), None):
                raise BadRecord(f'"{quotable(key)}" holds \\u{ord(escape[0]):04x}, which is no character of a text')
    return value


def _texts_in(value: Any) -> Iterator[str]:
    """Yield the texts of a value of JSON, those within lists and objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)


def cells_of(row: Mapping[str, Any], wanted: Mapping[str, bool]) -> dict[str, str]:
    """Return the values of a row of JSON or Parquet as text.

    Args:
        wanted: whether a list or an object is accepted, by column; it is left out of the result.

    Raises:
        BadRecord: a wanted value, or any where none is wanted in particular, is a list or an object that is not accepted. Other
            lists and objects are left out.
    """
    cells = {}
    for key, value in row.items():
        if isinstance(value, list | dict | tuple | bytes):
            if not wanted or not wanted.get(key, True) or (isinstance(value, bytes) and key in wanted):
                kind = {list: "a list", dict: "an object"}.get(type(value), "binary")
                raise BadRecord(f'"{quotable(key)}" is {kind}; expected text, a number, true, false or null')
        else:
            cells[key] = cell_text(value)
    return cells


def cell_text(value: Any) -> str:
    """Return a value of JSON or Parquet as the text of a cell: null is empty, a list or an object is JSON."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json_text(value)
    return "" if value is None else str(value)


def json_text(value: Any) -> str:
    """Return a value as JSON on one line, a `Number` as it was spelled."""
    # Before str, of which Number is a subclass.
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_json_string(str(key))}: {json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(json_text, value)) + "]"
    if isinstance(value, str):
        return _json_string(value)
    if isinstance(value, float) and value - value != 0:  # NaN and infinity, which JSON cannot write
        return "null"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return _json_string(str(value))  # dates and decimals of Parquet


def _json_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    # The json module would keep the last of several equal keys without an error.
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadRecord(f'key "{quotable(max(keys, key=keys.count))}" appears twice')
    return row


def _not_json(word: str) -> NoReturn:
    raise BadRecord(f'{word} is not JSON; write null for nothing, or "{word}" for the word')


DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=Number, parse_float=Number, parse_constant=_not_json
)


def counted(count: int, thing: str) -> str:
    """Return `1 row` or `2 rows`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
