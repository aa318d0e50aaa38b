"""One row as it is written, a line or several of a file, to its texts: quotes, separators and JSON, as strictly as the reader asks."""

import json
import re
from typing import Any, NoReturn

SEPARATORS = {
    "\t": "tab",
    ",": "comma",
    ";": "semicolon",
}  # the order in which the first line of a CSV is asked for them
CLOSING = r'[^"]*+(?:""[^"]*+)*+"'  # from behind an opening quote to behind its closing one
CLOSING_TEXT, CLOSING_BYTES = re.compile(CLOSING), re.compile(CLOSING.encode())
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # what a JSON escape can smuggle in: NUL and halves of a surrogate pair


class BadRecord(Exception):
    """Why a record cannot be a row, and on which of its lines, counted from 0."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def left_open(line: bytes, opening: re.Pattern[bytes], inside: bool) -> int | None:
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


def text_of(raw: bytes) -> str:
    """The text of a record, without its line end."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start)
        raise BadRecord(f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8", line) from None
    if "\0" in text:
        raise BadRecord("found a NUL byte; expected text", raw.count(b"\n", 0, raw.index(b"\0")))
    return text.removesuffix("\n").removesuffix("\r")


def names_of(text: str, fields: list[str], delimiter: str) -> tuple[str, ...]:
    """The columns of a header; one without a name gets its number, unless that is the name of another."""
    if len(fields) == 1 and (hint := other_separator(text, 2, delimiter)):
        raise BadRecord(f"expected 2 or more columns, found 1{hint}")
    if "\r" in text and "\n" not in text:
        raise BadRecord("the header holds a carriage return; end lines with \\n or \\r\\n")
    names = [name.strip() for name in fields]
    for second, name in enumerate(names):
        if name and (first := names.index(name)) < second:
            raise BadRecord(f'columns {first} and {second} (counted from 0) are both called "{name}"')
    return tuple(name or (f"{i} (no name)" if str(i) in names else str(i)) for i, name in enumerate(names))


def fields_of(text: str, delimiter: str, quoting: bool) -> list[str]:
    """The fields of a row of CSV or TSV."""
    if not quoting or '"' not in text:
        return text.split(delimiter)
    fields, position = [], 0
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
    """` (is this comma-separated?)` if `text` has enough of them for so many columns."""
    for mark, word in SEPARATORS.items():
        if mark != delimiter and columns > 1 and text.count(mark) >= columns - 1:
            return f" (is this {word}-separated?)"
    return ""


def json_object(text: str) -> dict[str, Any]:
    """The object on a line, its numbers as they are spelled."""
    try:
        found = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg} (character {error.colno})") from None
    except RecursionError:
        raise BadRecord("not a row: nested too deeply") from None
    if not isinstance(found, dict):
        raise BadRecord("expected one JSON object on each line, found another value")
    return found


def json_values(text: str, asked: frozenset[str]) -> dict[str, str]:
    """The values as text. A list or object is a bad row, but left out where other keys were asked for."""
    values = {}
    for key, value in json_object(text).items():
        if isinstance(value, str):
            values[key] = value
        elif isinstance(value, bool):
            values[key] = "true" if value else "false"
        elif value is None:
            values[key] = ""
        elif key in asked or not asked:
            kind = "a list" if isinstance(value, list) else "an object"
            raise BadRecord(f'"{key}" is {kind}; expected text, a number, true, false or null')
    if "\\u" in text:
        for key, value in values.items():
            if escape := NOT_TEXT.search(value):
                raise BadRecord(f'"{key}" holds \\u{ord(escape[0]):04x}, which is no character of a text')
    return values


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadRecord(f'key "{max(keys, key=keys.count)}" appears twice')
    return found


def _not_json(word: str) -> NoReturn:
    raise BadRecord(f'{word} is not JSON; write null for nothing, or "{word}" for the word')


DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_int=str, parse_float=str, parse_constant=_not_json)


def counted(count: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
