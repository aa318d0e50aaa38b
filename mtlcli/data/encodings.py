"""How the texts of a row become token sequences: one class for each value of `tasks.NAME.encoding`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mtlcli.config.schema import TaskConfig
from mtlcli.data.tokenizer import Tokenizer, TokenSequences
from mtlcli.data.windows import pieces_of_words, windows_of
from mtlcli.tasks.ragged import Ragged
from mtlcli.tasks.words import Text, Words

RowTexts = tuple[Text, ...]
"""The texts of one row, as its encoding reads them."""


class BadText(ValueError):
    """A text that cannot be encoded; the message goes on behind the column's name. `column` is its number."""

    def __init__(self, column: int, problem: str) -> None:
        super().__init__(problem)
        self.column = column


@dataclass(frozen=True)
class RowEncoding(ABC):
    """How rows are read and tokenized. Two tasks with equal encodings can share tokens.

    Attributes:
        nested: whether a text can be a list or an object of JSON.
        sides: token sequences for each row that the encoder reads apart, 1 or 2.
        truncates: whether only the first tokens of a text are read, so that the rest need not be tokenized.
    """

    nested: ClassVar[bool] = False
    sides: ClassVar[int] = 1
    truncates: ClassVar[bool] = False

    @classmethod
    def of(cls, section: TaskConfig) -> "RowEncoding":
        """Return the encoding with the options of a task's section."""
        return cls()

    @abstractmethod
    def texts(self, values: Sequence[Any]) -> RowTexts:
        """Return the texts of a row from the values of its columns; they may be empty.

        Raises:
            BadText: a value is no such text.
        """

    def empty(self, texts: RowTexts) -> list[int]:
        """Return the numbers of the texts that say nothing, with which no row can be learned."""
        return [
            number for number, text in enumerate(texts) if not (text.strip() if isinstance(text, str) else len(text))
        ]

    @abstractmethod
    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return the token sequences of rows; for an encoding with two sides, each row has the text of one side."""


@dataclass(frozen=True)
class Plain(RowEncoding):
    """One sequence for each row: its text, or the two texts of a pair joined by the tokenizer."""

    truncates: ClassVar[bool] = True

    def texts(self, values: Sequence[Any]) -> RowTexts:
        """Return the texts as they are."""
        for column, value in enumerate(values):
            if not isinstance(value, str):
                raise BadText(column, f": found {_kind(value)}; expected text")
        return tuple(values)

    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return one sequence for each row."""
        return tokenizer.sequences([tuple(map(str, row)) for row in rows])


PLAIN = Plain()


@dataclass(frozen=True)
class Apart(Plain):
    """Two sequences for each row, one for each text of a pair."""

    sides: ClassVar[int] = 2


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
            raise BadText(0, f": found {_kind(value)}; expected text or a list of words")
        for number, word in enumerate(value):
            if not isinstance(word, str):
                raise BadText(0, f": word {number} (counted from 0) is {_kind(word)}; expected text")
            if not word.strip(" \t\r\n"):
                raise BadText(0, f": word {number} (counted from 0) is empty")
        return (Words.joined(value),)

    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return the sequences of each row, and first and last token of each word."""
        template = tokenizer.template()
        before, room = len(template.around[0][0]), tokenizer.max_length - template.size
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
                cut=bool((last >= ends).any()),
                sequence=windows.of_item,
                first=first - starts + before,
                last=np.minimum(last, ends - 1) - starts + before,
                span=np.array(words.spans, dtype=np.int64).reshape(-1, 2),
            )
        return builder.build()


class SequenceBuilder:
    """Collects the sequences and items of rows one after the other."""

    def __init__(self, has_types: bool) -> None:
        self.has_types = has_types
        self.ids: list[np.ndarray] = []
        self.types: list[np.ndarray] = []
        self.rows = [0]
        self.cut: list[bool] = []
        self.items: dict[str, list[np.ndarray]] = {}
        self.counts = [0]

    def add_sequence(self, ids: np.ndarray, types: np.ndarray) -> None:
        """Add a sequence to the row that `end_row` will end."""
        self.ids.append(ids)
        self.types.append(types)

    def end_row(self, *, cut: bool, **items: np.ndarray) -> None:
        """End a row: whether a part of it is left out, and its items by field, see `TokenSequences`."""
        self.rows.append(len(self.ids))
        self.cut.append(cut)
        self.counts.append(len(items["first"]))
        for name, values in items.items():
            self.items.setdefault(name, []).append(values)

    def build(self) -> TokenSequences:
        """Return everything as flat arrays."""
        starts = np.zeros(len(self.ids) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in self.ids], out=starts[1:])
        return TokenSequences(
            np.concatenate(self.ids),
            starts,
            np.concatenate(self.types) if self.has_types else None,
            sum(self.cut),
            np.array(self.cut, dtype=bool),
            np.array(self.rows, dtype=np.int64),
            Ragged(
                {name: np.concatenate(values).astype(np.int32) for name, values in self.items.items()},
                np.cumsum(self.counts, dtype=np.int64),
            ),
        )


ENCODINGS: Mapping[str, type[RowEncoding]] = {"single": Plain, "cross": Plain, "bi": Apart, "words": WordByWord}


def encoding_of(section: TaskConfig) -> RowEncoding:
    """Return how a task's rows are encoded."""
    return ENCODINGS[section.encoding or "single"].of(section)


def recorded_encoding(record: Mapping[str, Any]) -> RowEncoding:
    """Return how the rows of a task in run.json are encoded."""
    return encoding_of(TaskConfig.model_validate(record["config"]))


def _kind(value: object) -> str:
    """Return the kind of a JSON value in words."""
    kinds = {list: "a list", tuple: "a list", dict: "an object", type(None): "null", bool: "true or false"}
    return kinds.get(type(value), "a number")
