"""Every encoding by name: one class for each value of `tasks.NAME.encoding`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mtlcli.config.schema import TaskConfig
from mtlcli.data.choice_encoding import EachChoice
from mtlcli.data.marked_encoding import Marked
from mtlcli.data.row_encoding import BadText, RowEncoding, RowTexts, TooLong, kind_of
from mtlcli.data.span_encoding import InContext
from mtlcli.data.tokenizer import Tokenizer, TokenSequences
from mtlcli.data.word_encoding import WordByWord

__all__ = [
    "ENCODINGS", "PLAIN", "Apart", "BadText", "Plain", "RowEncoding", "RowTexts", "TooLong", "WordByWord", "encoding_of",
    "recorded_encoding",
]  # fmt: skip


@dataclass(frozen=True)
class Plain(RowEncoding):
    """One sequence for each row: its text, or the two texts of a pair joined by the tokenizer."""

    truncates: ClassVar[bool] = True

    def texts(self, values: Sequence[Any]) -> RowTexts:
        """Return the texts as they are."""
        for column, value in enumerate(values):
            if not isinstance(value, str):
                raise BadText(column, f": found {kind_of(value)}; expected text")
        return tuple(values)

    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return one sequence for each row."""
        return tokenizer.sequences([tuple(map(str, row)) for row in rows])


PLAIN = Plain()


@dataclass(frozen=True)
class Apart(Plain):
    """Two sequences for each row, one for each text of a pair."""

    sides: ClassVar[int] = 2


ENCODINGS: Mapping[str, type[RowEncoding]] = {
    "single": Plain, "cross": Plain, "bi": Apart, "words": WordByWord, "choices": EachChoice, "marked": Marked, "spans": InContext,
}  # fmt: skip


def encoding_of(section: TaskConfig) -> RowEncoding:
    """Return how a task's rows are encoded."""
    return ENCODINGS[section.encoding or "single"].of(section)


def recorded_encoding(record: Mapping[str, Any]) -> RowEncoding:
    """Return how the rows of a task in run.json are encoded."""
    return encoding_of(TaskConfig.model_validate(record["config"]))
