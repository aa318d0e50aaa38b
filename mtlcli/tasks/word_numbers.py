"""Words as numbers, which arrays can hold: the number of a word follows from the word alone, so it is the same in every process."""

from functools import cache
from hashlib import blake2b

_words: dict[int, str] = {}


@cache
def number_of(word: str) -> int:
    """Return a signed 64-bit number; two different words share one with a probability of 5e-20."""
    # With `surrogatepass`, every Python string can be encoded.
    digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "little", signed=True)
    _words[number] = word
    return number


def word_of(number: int) -> str:
    """Return the word of a number that `number_of` returned in this process."""
    return _words[number]
