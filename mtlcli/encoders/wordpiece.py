"""WordPiece vocabulary learned by byte-pair merges: Sennrich et al., ACL 2016, arXiv:1508.07909, Algorithm 1.

The trainer of the `tokenizers` library breaks ties by the order of a hash table, so it produces a different vocabulary in
every process, whatever the seed. Here ties are broken alphabetically.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

Pair = tuple[str, str]


def learn_vocabulary(words: Counter[str], size: int, special: Iterable[str], min_count: int = 2) -> list[str]:
    """Return the pieces in the order of their ids: special ones, characters alphabetically, then merges by frequency.

    words counts the words of the text. A piece inside a word starts with `##`. Training stops at `size` pieces, or if no
    pair occurs `min_count` times; characters beyond `size` are dropped, the rarest first.
    """
    pieces = {word: [word[0], *("##" + character for character in word[1:])] for word in words}
    characters: Counter[str] = Counter()
    for word, parts in pieces.items():
        for part in parts:
            characters[part] += words[word]
    vocabulary = list(special)
    frequent = sorted(characters, key=lambda part: (-characters[part], part))[: max(0, size - len(vocabulary))]
    vocabulary += sorted(frequent)
    counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, parts in pieces.items():
        for pair in pairwise(parts):
            counts[pair] += words[word]
            words_with[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    pieces_so_far = set(vocabulary)
    while heap and len(vocabulary) < size:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:  # outdated: the count changed after the push
            continue
        # The heap is ordered by count, so that all pairs after this one are rarer.
        if -count < min_count:
            break
        merged = pair[0] + pair[1].removeprefix("##")
        # Two pairs can give the same piece: abc comes from ab + ##c and from a + ##bc.
        if merged not in pieces_so_far:
            pieces_so_far.add(merged)
            vocabulary.append(merged)
        changed: set[Pair] = set()
        # Sorted, because the order of a set differs between processes.
        for word in sorted(words_with.pop(pair)):
            changed |= _merge(word, words[word], pair, merged, pieces, counts, words_with)
        # A heap cannot update an entry, so a changed count is a new one; outdated ones are skipped when they come up.
        for neighbor in changed - {pair}:
            if counts[neighbor] > 0:
                heapq.heappush(heap, (-counts[neighbor], neighbor))
        del counts[pair]
    return vocabulary


def _merge(
    word: str, count: int, pair: Pair, merged: str, pieces: dict[str, list[str]], counts: Counter[Pair],
    words_with: defaultdict[Pair, set[str]],
) -> set[Pair]:  # fmt: skip
    """Merge all occurrences of a pair in one word, and return the pairs whose counts changed."""
    old, new, at = pieces[word], [], 0
    while at < len(old):
        # From the left, without overlap: ##a ##a ##a becomes ##aa ##a.
        if tuple(old[at : at + 2]) == pair:
            new.append(merged)
            at += 2
        else:
            new.append(old[at])
            at += 1
    # A pair that occurs twice in a word is counted twice.
    before, after = list(pairwise(old)), list(pairwise(new))
    for neighbor in before:
        counts[neighbor] -= count
        words_with[neighbor].discard(word)
    for neighbor in after:
        counts[neighbor] += count
        words_with[neighbor].add(word)
    pieces[word] = new
    return {*before, *after}
