"""A WordPiece vocabulary learned from text by byte-pair merges: Sennrich et al., ACL 2016, arXiv:1508.07909, Algorithm 1.

The trainer of the `tokenizers` library breaks ties by the order of a hash table, so the same text gives another vocabulary
in every process, and no seed helps. Here ties go to the pair that comes first in the alphabet.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

Pair = tuple[str, str]


def learn_vocabulary(words: Counter[str], size: int, special: Iterable[str], min_count: int = 2) -> list[str]:
    """Pieces in the order of their numbers: special ones, characters by the alphabet, then merges, most frequent first.

    words counts the words of the text. A piece inside a word starts with `##`. Stops at `size` pieces or where no pair
    occurs `min_count` times; characters beyond `size` are left out, the rarest first.
    """
    pieces = {word: [word[0], *("##" + character for character in word[1:])] for word in words}
    characters: Counter[str] = Counter()
    for word, parts in pieces.items():
        for part in parts:
            characters[part] += words[word]
    vocabulary = list(special)
    kept = sorted(characters, key=lambda part: (-characters[part], part))[: max(0, size - len(vocabulary))]
    vocabulary += sorted(kept)
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, parts in pieces.items():
        for pair in pairwise(parts):
            counts[pair] += words[word]
            where[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    known = set(vocabulary)
    while heap and len(vocabulary) < size:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:  # counted anew since it was put there
            continue
        if -count < min_count:
            break
        merged = pair[0] + pair[1].removeprefix("##")
        if merged not in known:
            known.add(merged)
            vocabulary.append(merged)
        changed: set[Pair] = set()
        for word in sorted(where.pop(pair)):
            changed |= _merge(word, words[word], pair, merged, pieces, counts, where)
        for other in changed - {pair}:
            if counts[other] > 0:
                heapq.heappush(heap, (-counts[other], other))
        del counts[pair]
    return vocabulary


def _merge(
    word: str, count: int, pair: Pair, merged: str, pieces: dict[str, list[str]], counts: Counter[Pair],
    where: defaultdict[Pair, set[str]],
) -> set[Pair]:  # fmt: skip
    """Joins a pair wherever it stands in one word; returns the pairs whose counts changed."""
    old, new, at = pieces[word], [], 0
    while at < len(old):
        if tuple(old[at : at + 2]) == pair:
            new.append(merged)
            at += 2
        else:
            new.append(old[at])
            at += 1
    before, after = list(pairwise(old)), list(pairwise(new))
    for other in before:
        counts[other] -= count
        where[other].discard(word)
    for other in after:
        counts[other] += count
        where[other].add(word)
    pieces[word] = new
    return {*before, *after}
