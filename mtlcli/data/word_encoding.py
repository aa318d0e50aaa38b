"""Rows whose items are the words of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mtlcli.config.schema import TaskConfig
from mtlcli.data.row_encoding import BadText, RowEncoding, RowTexts, SequenceBuilder, kind_of
from mtlcli.data.tokenizer import Tokenizer, TokenSequences
from mtlcli.data.windows import pieces_of_words, windows_of
from mtlcli.tasks.words import Words


@dataclass(frozen=True)
class WordByWord(RowEncoding):
    """One text as words, each of which is an item: as many sequences as it needs, which overlap.

    A text of more tokens than fit becomes several sequences, cut between words. Each word is read from the one in which it has
    the most tokens on its shorter side.

    Attributes:
        cut_by: how raw text is cut into words, see `Words.cut`.
        overlap: tokens that a sequence shares with the one before it; None: a quarter of it.
    """

    nested: ClassVar[bool] = True
    in_parts: ClassVar[bool] = True
    cut_by: str = "letters"
    overlap: int | None = None

    @classmethod
    def of(cls, section: TaskConfig) -> "WordByWord":
        """Return the encoding with `words` and `overlap` of a task's section."""
        return cls(section.words, section.overlap)

    def texts(self, values: Sequence[Any]) -> RowTexts:
        """Return the words of a list, or those of raw text."""
        (value,) = values
        if isinstance(value, str):
            return (Words.cut(value, self.cut_by),)
        if not isinstance(value, list | tuple):
            raise BadText(0, f": found {kind_of(value)}; expected text or a list of words")
        for number, word in enumerate(value):
            if not isinstance(word, str):
                raise BadText(0, f": word {number} (counted from 0) is {kind_of(word)}; expected text")
            # Other white space, such as a no-break space, can be a word of a corpus, as in `conll.cells_of_line`.
            if not word.strip(" \t\r\n"):
                raise BadText(0, f": word {number} (counted from 0) is empty")
        return (Words.joined(value),)

    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return the sequences of each row, and first and last token of each word."""
        template = tokenizer.template()
        before, room = len(template.around[0][0]), tokenizer.max_length - template.size
        # With an overlap of `room`, a window would have no token that the one before it lacks.
        overlap = room // 4 if self.overlap is None else min(self.overlap, room - 1)
        builder = SequenceBuilder(tokenizer.has_types)
        texts = [text for (text,) in rows if isinstance(text, Words)]
        for words, pieces in zip(texts, tokenizer.pieces([words.text for words in texts]), strict=True):
            ids, first, last = pieces_of_words(words, pieces, tokenizer.unknown)
            windows = windows_of(first, last, len(ids), room, overlap)
            for start, end in windows.tokens:
                builder.add_sequence(*template.fill(ids[start:end]))
            starts = windows.tokens[windows.of_item, 0]
            ends = windows.tokens[windows.of_item, 1]
            builder.end_row(
                # Windows end between words, so only a word longer than a window is cut.
                cut=bool((last >= ends).any()),
                sequence=windows.of_item,
                first=first - starts + before,
                last=np.minimum(last, ends - 1) - starts + before,
                span=np.array(words.spans, dtype=np.int64).reshape(-1, 2),
            )
        return builder.build()
