"""The contract of an encoding: how the texts of a row become token sequences, and where its items stand in them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mtlcli.config.schema import TaskConfig
from mtlcli.data.tokenizer import Tokenizer, TokenSequences
from mtlcli.tasks.ragged import Ragged
from mtlcli.tasks.words import Text

RowTexts = tuple[Text, ...]
"""The texts of one row, as its encoding reads them."""


class BadText(ValueError):
    """A text that cannot be encoded; the message goes on behind the column's name. `column` is its number."""

    def __init__(self, column: int, problem: str) -> None:
        super().__init__(problem)
        self.column = column


class TooLong(ValueError):
    """A row that the encoder cannot read whole, of an encoding that leaves nothing out. `row` is its number among the given rows."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


@dataclass(frozen=True)
class RowEncoding(ABC):
    """How rows are read and tokenized. Two tasks with equal encodings can share tokens.

    Attributes:
        nested: whether a text can be a list or an object of JSON.
        sides: token sequences for each row that the encoder reads apart, 1 or 2.
        in_parts: whether a text that is too long is read in overlapping parts.
        truncates: whether only the first tokens of a text are read, so that the rest need not be tokenized.
    """

    nested: ClassVar[bool] = False
    sides: ClassVar[int] = 1
    in_parts: ClassVar[bool] = False
    truncates: ClassVar[bool] = False

    @classmethod
    def of(cls, section: TaskConfig) -> "RowEncoding":
        """Return the encoding with the options of a task's section."""
        return cls()

    @classmethod
    def further_columns(cls, section: TaskConfig) -> tuple[str, ...]:
        """Return the columns that the encoding reads besides those of the texts, by header name or number."""
        return ()

    @abstractmethod
    def texts(self, values: Sequence[Any]) -> RowTexts:
        """Return the texts of a row from the values of its columns; they may be empty.

        Raises:
            BadText: a value is no such text.
        """

    def empty(self, texts: RowTexts) -> list[int]:
        """Return the numbers of the texts that say nothing, with which no row can be learned."""
        # `Words` have a length instead: a text without words is empty, whatever its characters.
        return [
            number for number, text in enumerate(texts) if not (text.strip() if isinstance(text, str) else len(text))
        ]

    @abstractmethod
    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return the token sequences of rows; for an encoding with two sides, each row has the text of one side.

        Raises:
            TooLong: a row does not fit, and no part of it can be left out.
        """


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
        # Every encoding with items states their first tokens.
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
                # int32 halves the files of the cache. Positions and characters within a row fit.
                {name: np.concatenate(values).astype(np.int32) for name, values in self.items.items()},
                np.cumsum(self.counts, dtype=np.int64),
            ),
        )


def kind_of(value: object) -> str:
    """Return the kind of a JSON value in words."""
    # By exact type: for isinstance, a bool is an int and a `records.Number` is a str.
    kinds = {list: "a list", tuple: "a list", dict: "an object", type(None): "null", bool: "true or false"}
    return kinds.get(type(value), "a number")
