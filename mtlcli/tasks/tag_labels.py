"""From labels of a file to spans of words: spans of characters, and labels that name a type."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from mtlcli.errors import quotable
from mtlcli.tasks.schemes import OUTSIDE, Span, parts_of
from mtlcli.tasks.words import Words

Align = Literal["error", "expand", "contract"]


def spans_in(label: Sequence[Any], words: Words, align: Align) -> list[Span]:
    """Return spans of words from spans of characters.

    Args:
        label: spans as {"start", "end", "type"} or [start, end, type], end exclusive.
        align: what to do with a span that begins or ends inside a word.

    Raises:
        ValueError: a span is outside the text, covers no word, ends inside one, or overlaps another.
    """
    spans: list[Span] = []
    for number, item in enumerate(label):
        start, end, kind = _span_of(item, number)
        shown = f'entities[{number}] {start}-{end} "{quotable(words.text[start:end])}"'
        if not 0 <= start < end <= len(words.text):
            raise ValueError(f"entities[{number}] {start}-{end}: outside the text of {len(words.text)} characters")
        # Outer spaces belong to no word, so a span with them would not begin or end with a word.
        while start < end and words.text[start].isspace():
            start += 1
        while end > start and words.text[end - 1].isspace():
            end -= 1
        covered = [i for i, (a, b) in enumerate(words.spans) if a < end and b > start]
        if not covered:
            raise ValueError(f"{shown}: covers no word")
        first, last = covered[0], covered[-1]
        begins, ends = words.spans[first][0] == start, words.spans[last][1] == end
        if align == "error" and not (begins and ends):
            raise ValueError(f"{shown}: begins or ends inside a word; set align: expand or contract")
        if align == "contract":
            first, last = first + (not begins), last - (not ends)
            if last < first:
                raise ValueError(f"{shown}: covers no whole word; set align: expand")
        spans.append((kind, first, last + 1))
    # In the order of the text, comparing neighbors finds every overlap.
    spans.sort(key=lambda span: span[1:])
    for before, after in pairwise(spans):
        if after[1] < before[2]:
            raise ValueError(f"the spans {before[0]} and {after[0]} overlap or are nested; keep one of them")
    return spans


def are_spans(label: Any, words: Words) -> bool:
    """Return whether a label lists spans of characters, rather than a tag for each word."""
    if not isinstance(label, list | tuple):
        return False
    # An empty list is a raw text without spans, but no tags for the words of a list.
    return any(isinstance(item, dict | list | tuple) for item in label) or (words.raw and not label)


def type_of(name: str) -> str:
    """Return the type of spans that a declared label names: that of a tag, or the label itself."""
    if name == OUTSIDE:
        return ""
    try:
        return parts_of(name)[1]
    except ValueError:
        return name


def _span_of(item: Any, number: int) -> tuple[int, int, str]:
    """Return first character, the one after the last, and type of a span of JSON."""
    try:
        if isinstance(item, Mapping):
            # The key is `label` in files of spaCy and Prodigy.
            kind = item["type"] if "type" in item else item["label"]
            return int(item["start"]), int(item["end"]), str(kind)
        start, end, kind = item
        return int(start), int(end), str(kind)
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"entities[{number}]: expected start, end and type") from None
