"""Spans that sequences of tags mark, for all sentences at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtlcli.tasks.schemes import parts_of


@dataclass(frozen=True)
class Spans:
    """Spans of n rows, in order: row, first word among the words of all rows, number of words, and number of the type, each (s,)."""

    row: np.ndarray
    start: np.ndarray
    length: np.ndarray
    type: np.ndarray

    def keys(self) -> np.ndarray:
        """Return what equal spans have in common (s, 3)."""
        return np.stack([self.start, self.length, self.type], axis=1)

    def take(self, which: np.ndarray) -> "Spans":
        """Return some of the spans."""
        return Spans(self.row[which], self.start[which], self.length[which], self.type[which])


def spans_in(
    labels: Sequence[str], types: Sequence[str], tags: np.ndarray, starts: np.ndarray, *, strict: bool = False
) -> Spans:
    """Return the spans of tags (m,) of n rows.

    As conlleval reads them, a span begins at B, and at I behind O, another type or a border of rows. With `strict`, as in seqeval's
    strict mode for IOB2, a span begins at B alone, and an I tag that continues none is no part of any.

    Args:
        labels: names of the tags in index order, BIO or IOBES as they are learned.
        types: types of the spans; a type that is none of them gets a number beyond theirs.
        tags: indices of tags; negative for a word without one, which is in no span.
        starts: (n + 1,), first word of each row.
    """
    begins, outside, type_of = _parts(labels, types, tags)
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    same_row = np.zeros(len(tags), dtype=bool)
    same_row[1:] = rows[1:] == rows[:-1]
    same_type = np.zeros(len(tags), dtype=bool)
    same_type[1:] = (type_of[1:] == type_of[:-1]) & ~outside[1:] & ~outside[:-1]
    continues = ~outside & ~begins & same_row & same_type
    first = ~outside & ~continues
    # A word that continues a span has the number of the word before it.
    number = np.cumsum(first) - 1
    lengths = np.bincount(number[~outside], minlength=int(first.sum()))
    at = np.flatnonzero(first)
    spans = Spans(rows[at], at, lengths, type_of[at])
    return spans.take(begins[at]) if strict else spans


def _parts(labels: Sequence[str], types: Sequence[str], tags: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which tags begin a span, which are outside, and the numbers of their types, each (m,).

    Behind E or S no tag of a span continues it, for only B and S can follow in IOBES.
    """
    known = len(labels)
    parts = [parts_of(label) for label in labels]
    kinds = {kind: number for number, kind in enumerate(types)}
    begin = np.array([prefix in "BS" for prefix, _ in parts])
    is_outside = np.array([not kind for _, kind in parts])
    kind = np.array([kinds.get(kind, -1) for _, kind in parts])
    # Index 0 is any valid one: entries of unseen tags are replaced below, and words without a tag are outside.
    unseen = tags >= known
    index = np.where(unseen | (tags < 0), 0, tags)
    begins, outside, type_of = begin[index], is_outside[index] | (tags < 0), kind[index]
    beyond = tags - known
    # An even distance is the first word of an unseen type, an odd one a further word, see `tags.unseen_index`.
    begins = np.where(unseen, beyond % 2 == 0, begins)
    outside = np.where(unseen, False, outside)
    type_of = np.where(unseen, len(kinds) + beyond // 2, type_of)
    return begins, outside, type_of


def matches(predicted: Spans, gold: Spans) -> np.ndarray:
    """Return which of the predicted spans are gold ones: the same words with the same type (s,) bool."""
    # No side has two equal spans, so a count of two is a match.
    both = np.concatenate([predicted.keys(), gold.keys()])
    _, which, counts = np.unique(both, axis=0, return_inverse=True, return_counts=True)
    return counts[which.reshape(-1)[: len(predicted.start)]] > 1
