"""From characters to tokens: which tokens a word has, and windows of tokens for texts that are longer than the encoder reads."""

from dataclasses import dataclass

import numpy as np

from mtlcli.data.tokenizer import Pieces
from mtlcli.tasks.words import Words


def pieces_of_words(words: Words, pieces: Pieces, unknown: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tokens of a text (p,), and first and last token of each of its m words (m,).

    A token belongs to the first word whose characters it covers, one of spaces alone to the word after it. Two words of raw text
    can share a token. A word without any, such as a soft hyphen, gets the token `unknown`, so that every word has a vector.
    """
    spans = np.array(words.spans, dtype=np.int64).reshape(-1, 2)
    if not len(spans):
        return pieces.ids, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    # Tokens are in the order of the text; a normalizer that moves a mark must not break the search below.
    of_piece = np.maximum.accumulate(np.searchsorted(spans[:, 1], pieces.starts, side="right"))
    of_piece = np.minimum(of_piece, len(spans) - 1)
    numbers = np.arange(len(spans))
    first = np.searchsorted(of_piece, numbers, side="left")
    last = np.searchsorted(of_piece, numbers, side="right") - 1
    ids = pieces.ids
    # `ids` grows by the unknown tokens and `pieces` does not: the difference of their lengths maps between them.
    for word in np.flatnonzero(last < first):
        before = first[word] - 1
        shared = len(pieces.ids) and before >= 0 and _covers(pieces, before - (len(ids) - len(pieces.ids)), spans[word])
        if shared:
            first[word] = last[word] = before
        else:
            ids = np.insert(ids, first[word], unknown)
            last[word] = first[word]
            first[word + 1 :] += 1
            last[word + 1 :] += 1
    return ids, first, last


def _covers(pieces: Pieces, piece: int, span: np.ndarray) -> bool:
    """Return whether a token has a character of a span."""
    return piece >= 0 and bool(pieces.starts[piece] < span[1] and pieces.ends[piece] > span[0])


@dataclass(frozen=True)
class Windows:
    """Windows of a text: first token and the one after the last (w, 2), and the window that each item is read from (m,)."""

    tokens: np.ndarray
    of_item: np.ndarray


def windows_of(first: np.ndarray, last: np.ndarray, tokens: int, room: int, overlap: int) -> Windows:
    """Return windows of at most `room` tokens that begin and end between items.

    A window begins at the last item that leaves `overlap` tokens or more in common with the window before it. Each item is read
    from the window where the shorter of its two contexts is longest, the earlier of two equal ones. An item longer than a
    window is cut.

    Args:
        first, last: tokens of each item (m,), in order.
    """
    if tokens <= room:
        return Windows(np.array([[0, tokens]]), np.zeros(len(first), dtype=np.int64))
    # Places between items, where a window may begin or end. Items that share a token give one border.
    borders = np.append(np.unique(first), tokens)
    windows: list[tuple[int, int]] = []
    start = 0
    while True:
        ends = borders[(borders > start) & (borders <= start + room)]
        end = int(ends[-1]) if len(ends) else start + room
        windows.append((start, end))
        # No border within reach: the item is longer than a window, and its tokens up to the next item are left out.
        following = int(borders[borders > start + room][0]) if len(ends) == 0 else end
        if following >= tokens:
            break
        shared = borders[(borders > start) & (borders <= end - overlap)]
        candidate = int(shared[-1]) if len(shared) else following
        # Without a word more than the window before, it would be read for nothing.
        reached = borders[(borders > candidate) & (borders <= candidate + room)]
        start = candidate if len(reached) and reached[-1] > end else following
    # An item that a window holds whole counts above one that it cuts, and that above one outside.
    context = np.full((len(windows), len(first)), -1, dtype=np.int64)
    for number, (start, end) in enumerate(windows):
        whole = (first >= start) & (last < end)
        context[number, (first >= start) & (first < end)] = 0
        context[number, whole] = 1 + np.minimum(first - start, end - 1 - last)[whole]
    return Windows(np.array(windows, dtype=np.int64), context.argmax(axis=0))
