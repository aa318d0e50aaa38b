"""Rows with two marked spans of a text, between which a relation is predicted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mtlcli.config.schema import TaskConfig
from mtlcli.data.row_encoding import BadText, RowEncoding, RowTexts, SequenceBuilder, TooLong, kind_of
from mtlcli.data.tokenizer import Pieces, Tokenizer, TokenSequences
from mtlcli.tasks.words import Words

Span = tuple[int, int]

TAG = re.compile(r"</?e[12]>")
TAGS = ("<e1>", "</e1>", "<e2>", "</e2>")
"""Tags of SemEval-2010 task 8 around the two spans in a text."""
MARKERS = (("@", "@"), ("#", "#"))
"""Characters around head and tail, which every vocabulary has (Zhou and Chen, AACL 2022, arXiv:2102.01373)."""


@dataclass(frozen=True)
class Marked(RowEncoding):
    """One sequence for each row: a text in which two spans, head and tail, are marked; they are the items.

    The row is a text with the tags `<e1>...</e1>` and `<e2>...</e2>`, or a text or list of words, the head's span and the tail's
    (first character or word, and the one after the last). Where a text is too long, the parts farthest from the spans are left out.

    Attributes:
        markers: whether the spans are put between characters that mark them.
    """

    nested: ClassVar[bool] = True
    markers: bool = True

    @classmethod
    def of(cls, section: TaskConfig) -> "Marked":
        """Return the encoding with `markers` of a task's section."""
        return cls(section.markers)

    def texts(self, values: Sequence[Any]) -> RowTexts:
        """Return the text with head and tail as its two words."""
        if len(values) == 1:
            text, *spans = _without_tags(values[0])
        else:
            words = values[0]
            if not isinstance(words, str | list | tuple) or any(not isinstance(word, str) for word in words):
                raise BadText(0, f": found {kind_of(words)}; expected text or a list of words")
            text = words if isinstance(words, str) else Words.joined(words).text
            spans = [_span_in(value, column + 1, words) for column, value in enumerate(values[1:])]
        (head_start, head_end), (tail_start, tail_end) = spans
        if head_start < tail_end and tail_start < head_end:
            raise BadText(len(values) - 1, ": head and tail overlap; expected two spans without a common word")
        return (Words(text, tuple(spans)),)

    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return the sequence of each row, and first and last token of head and tail, their markers included."""
        template = tokenizer.template()
        before, room = len(template.around[0][0]), tokenizer.max_length - template.size
        builder = SequenceBuilder(tokenizer.has_types)
        marked = [self._with_markers(words) for (words,) in rows if isinstance(words, Words)]
        for number, (words, pieces) in enumerate(
            zip(marked, tokenizer.pieces([text.text for text in marked]), strict=True)
        ):
            first, last = _tokens_of(words, pieces)
            start, end = _window(int(first.min()), int(last.max()) + 1, len(pieces.ids), room)
            if end - start > room:
                raise TooLong(
                    number,
                    f"head and tail are {end - start} tokens apart; the encoder reads {room} (encoder.max_length)",
                )
            builder.add_sequence(*template.fill(pieces.ids[start:end]))
            builder.end_row(
                cut=end - start < len(pieces.ids), sequence=np.zeros(2, dtype=np.int64),
                first=first - start + before, last=last - start + before,
                span=np.array(words.spans, dtype=np.int64),
            )  # fmt: skip
        return builder.build()

    def _with_markers(self, words: Words) -> Words:
        """Return a text with markers around its two spans, which then cover the markers too."""
        if not self.markers:
            return words
        text, position = "", 0
        spans = [(0, 0), (0, 0)]
        # In the order of the text, in which the tail may come before the head.
        for start, end, number in sorted((*span, number) for number, span in enumerate(words.spans)):
            opening, closing = MARKERS[number]
            text += words.text[position:start]
            begins = len(text)
            text += f"{opening} {words.text[start:end]} {closing}"
            spans[number] = (begins, len(text))
            position = end
        return Words(text + words.text[position:], tuple(spans))


def _without_tags(value: Any) -> tuple[str, Span, Span]:
    """Return a text without the tags around its two spans, and the spans."""
    if not isinstance(value, str):
        raise BadText(0, f": found {kind_of(value)}; expected text")
    tags = list(TAG.finditer(value))
    for tag in TAGS:
        count = sum(match[0] == tag for match in tags)
        if count != 1:
            raise BadText(0, f": found {tag} {count} times; expected <e1>, </e1>, <e2> and </e2> once each")
    text, position, places = "", 0, {}
    for match in tags:
        text += value[position : match.start()]
        places[match[0]] = len(text)
        position = match.end()
    text += value[position:]
    head, tail = (_trimmed(text, places[f"<e{n}>"], places[f"</e{n}>"]) for n in (1, 2))
    for number, (start, end) in enumerate((head, tail), 1):
        if start >= end:
            raise BadText(0, f": <e{number}> marks nothing; expected a span of the text")
    return text, head, tail


def _span_in(value: Any, column: int, words: str | Sequence[str]) -> Span:
    """Return the characters of a span that a row states in characters of a text, or in words of a list."""
    ends: Any = [value.get("start"), value.get("end")] if isinstance(value, dict) else value
    if isinstance(ends, str):
        # A cell of CSV or TSV: `3 7`, `3,7`, `3:7` or `3-7`.
        ends = re.split(r"[\s,:-]+", ends.strip())
    try:
        start, end = (int(number) for number in ends)
    except (TypeError, ValueError):
        raise BadText(column, ": expected a span as [first, end], the end not included") from None
    if not 0 <= start < end <= len(words):
        unit = "characters" if isinstance(words, str) else "words"
        raise BadText(column, f": found [{start}, {end}]; expected a span in the {len(words)} {unit} of the text")
    if not isinstance(words, str):
        spans = Words.joined(words).spans
        return spans[start][0], spans[end - 1][1]
    start, end = _trimmed(words, start, end)
    if start >= end:
        raise BadText(column, ": the span holds only spaces")
    return start, end


def _trimmed(text: str, start: int, end: int) -> Span:
    """Return a span without spaces at its ends."""
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())


def _tokens_of(words: Words, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last token of each span; of one without any token, the token behind it."""
    spans = np.array(words.spans, dtype=np.int64)
    most = len(pieces.ids) - 1
    first = np.minimum(np.searchsorted(pieces.ends, spans[:, 0], side="right"), most)
    last = np.searchsorted(pieces.starts, spans[:, 1], side="left") - 1
    return first, np.maximum(first, last)


def _window(first: int, end: int, tokens: int, room: int) -> tuple[int, int]:
    """Return first token and end of the part of a text that holds the tokens from `first` to `end`, with equal context on both sides."""
    spare = max(0, min(room, tokens) - (end - first))
    # Tokens that the text lacks on one side are added on the other.
    after = min(tokens - end, spare - min(first, spare // 2))
    return first - min(first, spare - after), end + after
