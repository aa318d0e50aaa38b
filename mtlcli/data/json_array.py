"""The elements of a JSON array, cut out of a file without reading all of it.

Only brackets and strings are looked at: whether an element is valid JSON is decided when it is parsed as a row.
"""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from mtlcli.errors import MtlError

BLOCK = 1 << 16
NEWLINE = b"\n"
MARKS = re.compile(rb'["\[\]{},]')
# Possessive, so that a string without its end in this block fails without backtracking.
STRING_END = re.compile(rb'(?:[^"\\]|\\.)*+"', re.DOTALL)


def begins_array(head: bytes) -> bool:
    """Return whether the first bytes of a file open an array."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def array_elements(head: bytes, stream: BinaryIO, name: str, longest: int) -> Iterator[tuple[int, bytes]]:
    """Yield each element with the line where it starts, counted from 1.

    Args:
        head: the first bytes of the file, with the opening bracket.
        stream: the rest of it.
        name: the file in messages.
        longest: the most bytes of an element, a string without an end being the usual reason for more.

    Raises:
        MtlError: the array does not close, or something follows it.
    """
    text = head
    start = text.index(b"[") + 1
    line, counted_to = 1, 0
    position, depth = start, 0
    while True:
        mark = MARKS.search(text, position)
        end = None
        # Brackets and commas inside a string do not count, so it is skipped whole.
        if mark is not None and mark[0] == b'"':
            string = STRING_END.match(text, mark.end())
            end = string.end() if string else None
        elif mark is not None:
            end = mark.end()
        if mark is None or end is None:
            # Only the element that is being read stays in memory.
            line += text.count(NEWLINE, counted_to, start)
            text, position = text[start:], (mark.start() if mark else len(text)) - start
            start = counted_to = 0
            # A string is searched again from its start after each read: doubling keeps that linear.
            more = stream.read(max(BLOCK, len(text)))
            if not more or len(text) > longest:
                problem = "the array does not close; is the file cut off?" if not more else "an element is too long"
                line += text.count(NEWLINE, 0, len(text) - len(text.lstrip()))
                raise MtlError(f"{name}:{line}: {problem}")
            text += more
            continue
        position = end
        if mark[0] in b"[{":
            depth += 1
        elif (mark[0] == b"," and depth == 0) or (mark[0] == b"]" and depth == 0):
            element = text[start : mark.start()]
            space = len(element) - len(element.lstrip())
            line += text.count(NEWLINE, counted_to, start + space)
            counted_to = start + space
            # Nothing before the bracket is an empty array or a trailing comma. Nothing before a comma is a bad row.
            if element.strip() or mark[0] == b",":
                yield line, element.strip()
            start = end
            if mark[0] == b"]":
                break
        elif mark[0] in b"]}":
            # An extra closing brace stays in the element, whose parser reports it.
            depth = max(0, depth - 1)
    rest = text[end:] + stream.read(BLOCK)
    if rest.strip():
        raise MtlError(f"{name}:{line}: the file goes on behind the array; expected one array of objects")
