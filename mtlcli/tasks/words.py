"""A text as words: the words of a file, or those that raw text is cut into."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# One by one, since these scripts put no spaces between words: Han, kana, Hangul, Thai, Lao, Khmer and Myanmar.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# Marks that belong to the letter before them, which `\\w` leaves out: accents, Hebrew, Arabic and Indic vowels, joiners.
_MARKS = "\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0dff\u200c\u200d"
WORD = re.compile(rf"[{_ALONE}]|(?:[^\W{_ALONE}]|[{_MARKS}])+|[^\w\s]")
"""A word of raw text: letters and digits, or another visible character alone."""
GAP = re.compile(r"\S+")


@dataclass(frozen=True)
class Words:
    """A text and its words.

    Attributes:
        text: the words of a file joined by spaces, or the raw text.
        spans: first character of each word, and the one after its last.
        raw: True if the words were cut from raw text.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    raw: bool = False

    @classmethod
    def joined(cls, words: Sequence[str]) -> "Words":
        """Return words of a file; they may hold spaces."""
        spans, start = [], 0
        for word in words:
            spans.append((start, start + len(word)))
            start += len(word) + 1
        return cls(" ".join(words), tuple(spans))

    @classmethod
    def cut(cls, text: str, by: str = "letters") -> "Words":
        """Cut raw text into words: at changes between letters and other characters, or at `spaces` alone."""
        pattern = WORD if by == "letters" else GAP
        return cls(text, tuple(match.span() for match in pattern.finditer(text)), raw=True)

    def __len__(self) -> int:
        return len(self.spans)

    def __str__(self) -> str:
        return self.text

    @property
    def words(self) -> list[str]:
        """The words in order."""
        return [self.text[start:end] for start, end in self.spans]


Text = str | Words
"""One text of a row."""


def content(text: Text) -> str:
    """Return a string that is equal exactly for equal texts with equal words."""
    if isinstance(text, str):
        return text
    # NUL is rejected in text files and JSON, so no plain text of theirs gives the same string.
    return f"{text.text}\0\0{' '.join(f'{start}-{end}' for start, end in text.spans)}"
