"""Tagging schemes: how tags mark spans of words, and sequences of tags as spans of a type."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Scheme = Literal["plain", "bio", "iob1", "iobes", "bilou", "io"]
TrainScheme = Literal["plain", "bio", "iobes"]
Span = tuple[str, int, int]
"""A type, the first word, and the word after the last one."""

OUTSIDE = "O"
TAG = re.compile(r"([BIOESLUM])-(.+)", re.DOTALL)
# BILOU says L and U for E and S, BMES says M for I.
_AS_IOBES = {"L": "E", "U": "S", "M": "I"}
_PREFIXES: dict[str, str] = {"bio": "BI", "iobes": "BIES"}


def parts_of(tag: str) -> tuple[str, str]:
    """Return prefix and type of a tag, the type being what follows the first hyphen; ("O", "") for O.

    Raises:
        ValueError: the tag has no such form.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    match = TAG.fullmatch(tag)
    if match is None or match[1] == OUTSIDE:
        raise ValueError(f'tag "{tag}": expected O or PREFIX-TYPE as in B-ORG, I-ORG')
    return match[1], match[2]


LOWEST_SHARE = 0.95
"""Share of tags with a prefix or O from which the rest are taken for mistakes in a scheme of spans."""


def detect(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Return the scheme of tags: plain unless nearly all of them are O or a prefix with a type.

    With B and I alone it is IOB1 where every B stands right behind a span of its type, else BIO.
    """
    prefixes: set[str] = set()
    every_b_splits = True
    count = malformed = 0
    for tags in sentences:
        before = (OUTSIDE, "")
        for tag in tags:
            count += 1
            try:
                prefix, kind = parts_of(tag)
            except ValueError:
                malformed += 1
                before = (OUTSIDE, "")
                continue
            prefixes.add(prefix)
            continues = before[0] != OUTSIDE and before[1] == kind
            # IOB1 writes B only where a span would otherwise continue the one before it.
            every_b_splits &= prefix != "B" or continues
            before = (prefix, kind)
    used = prefixes - {OUTSIDE}
    # A plain label such as E-mail has the form of a tag too, but a file with spans has words outside them.
    if not used or OUTSIDE not in prefixes or malformed > (1 - LOWEST_SHARE) * count:
        return "plain"
    if used & set("LU"):
        return "bilou"
    if used & set("ESM"):
        return "iobes"
    if used == {"I"}:
        return "io"
    return "iob1" if every_b_splits else "bio"


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the spans of a sentence's tags in any scheme with prefixes, as conlleval reads them.

    A span begins at B or S, behind E or S, and at a tag whose type differs from that of the tag before, O included.

    Raises:
        ValueError: a tag is malformed.
    """
    spans: list[Span] = []
    # An empty `kind` means that no span is open.
    start, kind, ended = 0, "", True
    for index, tag in enumerate(tags):
        prefix, type_ = parts_of(tag)
        prefix = _AS_IOBES.get(prefix, prefix)
        if kind and (ended or prefix in "OBS" or type_ != kind):
            spans.append((kind, start, index))
            kind = ""
        if prefix != OUTSIDE and not kind:
            start, kind = index, type_
        ended = prefix in "ES"
    if kind:
        spans.append((kind, start, len(tags)))
    return spans


def violations(tags: Sequence[str]) -> tuple[int, int]:
    """Return how many I tags continue no span, and how many I tags there are, in a sentence of BIO."""
    before, wrong, all_ = (OUTSIDE, ""), 0, 0
    for tag in tags:
        prefix, kind = parts_of(tag)
        if prefix == "I":
            all_ += 1
            wrong += before[0] == OUTSIDE or before[1] != kind
        before = (prefix, kind)
    return wrong, all_


def tags_of(spans: Iterable[Span], words: int, scheme: TrainScheme = "bio") -> list[str]:
    """Return the tags of a sentence with these spans, which do not overlap."""
    tags = [OUTSIDE] * words
    for kind, start, end in spans:
        for index in range(start, end):
            tags[index] = f"{'B' if index == start else 'I'}-{kind}"
        if scheme == "iobes":
            tags[end - 1] = f"{'S' if end - start == 1 else 'E'}-{kind}"
    return tags


def closed_tags(types: Iterable[str], scheme: TrainScheme) -> tuple[str, ...]:
    """Return all tags of a scheme for these types, O first: also those that no training row has."""
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in _PREFIXES[scheme]))


@dataclass(frozen=True)
class Structure:
    """Which tags can begin a sentence (C,), end one (C,), and follow each other (C, C), by tag index."""

    begin: np.ndarray
    end: np.ndarray
    follow: np.ndarray

    @classmethod
    def of(cls, tags: Sequence[str], scheme: Scheme) -> "Structure":
        """Return what a scheme allows: everything for plain tags."""
        size = len(tags)
        if scheme == "plain":
            return cls(np.ones(size, bool), np.ones(size, bool), np.ones((size, size), bool))
        parts = [parts_of(tag) for tag in tags]
        begin = np.array([prefix in "OBS" for prefix, _ in parts])
        # In IOBES a span must be closed before the sentence ends; in BIO it can end with any word.
        end = np.array([scheme != "iobes" or prefix in "OES" for prefix, _ in parts])
        follow = np.array([[_follows(before, after, scheme) for after in parts] for before in parts])
        return cls(begin, end, follow)


def _follows(before: tuple[str, str], after: tuple[str, str], scheme: Scheme) -> bool:
    """Return whether a tag can stand behind another one."""
    is_open = before[0] in "BI"
    continues = after[0] in "IE" and is_open and before[1] == after[1]
    if scheme == "iobes" and is_open:
        return continues
    return continues or after[0] in "OBS"


def best_tags(scores: np.ndarray, starts: np.ndarray, structure: Structure, transitions: np.ndarray | None = None,
              begin: np.ndarray | None = None, end: np.ndarray | None = None) -> np.ndarray:  # fmt: skip
    """Return the best allowed sequence of tags of each sentence (m,) int64: Viterbi's algorithm over all sentences at once.

    Of sequences with equal scores the one with lower tag indices wins, from the end of the sentence on.

    Args:
        scores: (m, C), of each word.
        starts: (n + 1,), first word of each sentence.
        transitions, begin, end: scores (C, C), (C,) and (C,) of a tag behind another one, at the beginning and at the end; None: 0.
    """
    lengths = np.diff(starts)
    # Longest first, so that the sentences with a word at some step are the first rows of all arrays.
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    best = np.zeros(len(scores), dtype=np.int64)
    if not len(order):
        return best
    # Far below any sum of scores, so that an allowed sequence always wins.
    barrier = -1e9
    follow = np.where(structure.follow, 0.0, barrier) + (0.0 if transitions is None else transitions)
    first = np.where(structure.begin, 0.0, barrier) + (0.0 if begin is None else begin)
    last = np.where(structure.end, 0.0, barrier) + (0.0 if end is None else end)
    offsets, sizes = starts[:-1][order], lengths[order]
    total = first + scores[offsets].astype(np.float64)  # (n, C), sentences by falling length
    pointers: list[np.ndarray] = []
    for step in range(1, int(sizes[0])):
        active = int((sizes > step).sum())
        candidates = total[:active, :, None] + follow  # (active, from, to)
        pointer = candidates.argmax(axis=1)
        pointers.append(pointer)
        total[:active] = (
            np.take_along_axis(candidates, pointer[:, None], axis=1)[:, 0] + scores[offsets[:active] + step]
        )
    # `total` of a shorter sentence was last updated at its own last word.
    tag = (total + last).argmax(axis=1)
    for step in range(int(sizes[0]) - 1, -1, -1):
        active = int((sizes > step).sum())
        best[offsets[:active] + step] = tag[:active]
        if step:
            tag[:active] = pointers[step - 1][np.arange(active), tag[:active]]
    return best
