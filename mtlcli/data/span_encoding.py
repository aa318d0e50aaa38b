"""Rows with a question and a long text in which its answer is a span."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mtlcli.config.schema import TaskConfig
from mtlcli.data.row_encoding import BadText, RowEncoding, RowTexts, SequenceBuilder, kind_of
from mtlcli.data.tokenizer import Tokenizer, TokenSequences
from mtlcli.data.windows import windows_of
from mtlcli.tasks.items import NO_SPAN

LONGEST_QUESTION = 64
"""Tokens of a question that are read, as in the code of Devlin et al. (NAACL 2019, arXiv:1810.04805)."""


@dataclass(frozen=True)
class InContext(RowEncoding):
    """As many sequences for each row as its context needs, each the question joined with a part of the context.

    The items are the places where an answer can begin or end: in each sequence its first token, which stands for no answer in this
    part (its `span` is NO_SPAN), and then every token of the context.

    Attributes:
        overlap: tokens that a part shares with the one before it; None: a quarter of it.
    """

    in_parts: ClassVar[bool] = True
    overlap: int | None = None

    @classmethod
    def of(cls, section: TaskConfig) -> "InContext":
        """Return the encoding with `overlap` of a task's section."""
        return cls(section.overlap)

    def texts(self, values: Sequence[Any]) -> RowTexts:
        """Return question and context."""
        for column, value in enumerate(values):
            if not isinstance(value, str):
                raise BadText(column, f": found {kind_of(value)}; expected text")
        return tuple(values)

    def tokenize(self, rows: Sequence[RowTexts], tokenizer: Tokenizer) -> TokenSequences:
        """Return the sequences of each row, and the places in them where an answer can begin or end."""
        template = tokenizer.template(2)
        builder = SequenceBuilder(tokenizer.has_types)
        questions, contexts = (tokenizer.pieces([str(row[side]) for row in rows]) for side in range(2))
        for question, context in zip(questions, contexts, strict=True):
            most = tokenizer.max_length - template.size
            # At most half for the question, so that a long one leaves tokens for the context.
            asked = question.ids[: min(LONGEST_QUESTION, most // 2)]
            room = most - len(asked)
            overlap = room // 4 if self.overlap is None else min(self.overlap, room - 1)
            numbers = np.arange(len(context.ids))
            # Every token is an item of its own, so windows can begin anywhere.
            windows = windows_of(numbers, numbers, len(numbers), room, overlap).tokens
            before = len(template.around[0][0]) + len(asked) + len(template.around[1][0])
            places, spans = [], []
            for start, end in windows.tolist():
                builder.add_sequence(*template.fill(asked, context.ids[start:end]))
                places += [np.zeros(1, dtype=np.int64), before + np.arange(end - start)]
                spans += [np.array([NO_SPAN]), np.stack([context.starts[start:end], context.ends[start:end]], axis=1)]
            place = np.concatenate(places)
            builder.end_row(
                # The context is always read whole, in several sequences.
                cut=len(asked) < len(question.ids),
                sequence=np.repeat(np.arange(len(windows)), 1 + windows[:, 1] - windows[:, 0]),
                first=place, last=place, span=np.concatenate(spans),
            )  # fmt: skip
        return builder.build()
