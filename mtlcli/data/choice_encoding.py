"""Rows whose items are the choices of a question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mtlcli.config.schema import TaskConfig
from mtlcli.data.row_encoding import BadText, RowEncoding, RowTexts, SequenceBuilder, TooLong, kind_of
from mtlcli.data.tokenizer import Tokenizer, TokenSequences

BEFORE_CHOICES = 2
"""Texts of a row before its choices: the context and the question, which may be empty."""


@dataclass(frozen=True)
class EachChoice(RowEncoding):
    """One sequence for each choice of a row: the context and the question, joined with the choice as a pair.

    The texts of a row are the context, the question (empty where there is no such column), and the choices. Where a sequence is too
    long, the end of the context is left out, never a part of the question or of the choice.

    Attributes:
        columns: how many columns hold the choices; 1 for a list of them.
    """

    nested: ClassVar[bool] = True
    columns: int = 1

    @classmethod
    def of(cls, section: TaskConfig) -> "EachChoice":
        """Return the encoding with `choices` of a task's section."""
        return cls(len(section.choices or ()) or 1)

    @classmethod
    def further_columns(cls, section: TaskConfig) -> tuple[str, ...]:
        """Return the columns of the choices."""
        return tuple(section.choices or ("choices",))

    def texts(self, values: Sequence[Any]) -> RowTexts:
        """Return context, question and choices."""
        before = len(values) - self.columns
        # A row without a column of questions gets an empty question.
        context, question = [*values[:before], ""][:BEFORE_CHOICES]
        choices = values[before:] if self.columns > 1 else values[before]
        for column, text in enumerate(values[:before]):
            if not isinstance(text, str):
                raise BadText(column, f": found {kind_of(text)}; expected text")
        if choices is None or choices == "":
            raise BadText(before, ": is missing; expected a list of choices, or columns named by 'choices'")
        if not isinstance(choices, list | tuple):
            what = "text" if isinstance(choices, str) else kind_of(choices)
            raise BadText(before, f": found {what}; expected a list of choices, or columns named by 'choices'")
        if len(choices) < 2:
            raise BadText(before, f": found {len(choices)} choice(s); expected two or more")
        for number, choice in enumerate(choices):
            column = before + (number if self.columns > 1 else 0)
            if not isinstance(choice, str):
                raise BadText(column, f": choice {number} (counted from 0) is {kind_of(choice)}; expected text")
            if not choice.strip():
                raise BadText(column, f": choice {number} (counted from 0) is empty")
        return context, question, *choices

    def empty(self, texts: RowTexts) -> list[int]:
        """Return the context if there is no question either."""
        return [] if any(str(text).strip() for text in texts[:BEFORE_CHOICES]) else [0]

    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return one sequence for each choice, all of whose tokens are the item."""
        template = tokenizer.template(2)
        room = tokenizer.max_length - template.size
        builder = SequenceBuilder(tokenizer.has_types)
        # The space separates the question from the context in tokenizers that mark the beginnings of words by it.
        flat = [(f" {text}" if place == 1 and row[0] else str(text)) for row in rows for place, text in enumerate(row)]
        pieces = iter(tokenizer.pieces(flat))
        for number, row in enumerate(rows):
            context, question, *choices = (next(pieces).ids for _ in row)
            cut = False
            for choice_number, choice in enumerate(choices):
                left = room - len(question) - len(choice)
                # At least one token of the context must remain, unless it has none.
                if left < min(len(context), 1):
                    raise TooLong(
                        number,
                        f"choice {choice_number} (counted from 0) and the question have {len(question) + len(choice)} tokens; "
                        f"the encoder reads {room} (encoder.max_length)",
                    )
                cut |= len(context) > left
                builder.add_sequence(*template.fill(np.concatenate([context[:left], question]), choice))
            # The item is the whole sequence, special tokens included.
            lengths = np.array([len(ids) for ids in builder.ids[-len(choices) :]])
            numbers = np.arange(len(choices))
            builder.end_row(cut=cut, sequence=numbers, first=np.zeros_like(numbers), last=lengths - 1)
        return builder.build()
