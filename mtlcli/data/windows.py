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
    borders: np.ndarray = np.append(np.unique(first), tokens)

    def last_border(after: int, up_to: int) -> int | None:
        """Return the last border behind `after`, at most `up_to`."""
        place = max(0, int(np.searchsorted(borders, up_to, side="right")) - 1)
        border = int(borders[place])
        return border if after < border <= up_to else None

    windows: list[tuple[int, int]] = []
    start = 0
    while True:
        found = last_border(start, start + room)
        end = start + room if found is None else found
        windows.append((start, end))
        # No border within reach: the item is longer than a window, and its tokens up to the next item are left out.
        following = int(borders[np.searchsorted(borders, end, side="right")]) if found is None else end
        if following >= tokens:
            break
        shared = last_border(start, end - overlap)
        candidate = following if shared is None else shared
        # Without a word more than the window before, it would be read for nothing.
        reached = last_border(candidate, candidate + room)
        start = candidate if reached is not None and reached > end else following
    of_item, longest = np.zeros(len(first), dtype=np.int64), np.full(len(first), -1, dtype=np.int64)
    # Window by window, because a matrix of windows and items grows with the square of a long text.
    for number, (start, end) in enumerate(windows):
        items = slice(*np.searchsorted(first, (start, end)).tolist())
        # An item that a window holds whole counts above one that it cuts, and that above one outside.
        context = 1 + np.minimum(first[items] - start, end - 1 - last[items])
        context = np.where(last[items] < end, context, 0)
        better = context > longest[items]
        longest[items] = np.where(better, context, longest[items])
        of_item[items] = np.where(better, number, of_item[items])
    return Windows(np.array(windows, dtype=np.int64), of_item)
