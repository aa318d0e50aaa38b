"""Answers by one linear layer on every token of the context (Devlin et al., NAACL 2019, arXiv:1810.04805, sections 4.2 and 4.3)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.segments import log_softmax, padded
from mtlcli.heads.tag_linear import items_of
from mtlcli.tasks.answers import Answers
from mtlcli.tasks.items import NO_SPAN, Items
from mtlcli.tasks.targets import Ragged, Tensors

# Finite, because the difference of two infinite scores is NaN.
NEVER = -1e9
"""Score of a span that cannot be an answer."""


class SpanLinear(Head):
    """Score each place of a window as beginning and as end of the answer, by dropout and one linear layer.

    The first token of a window stands for no answer in it. The loss of a question is the mean over its windows of half the sum of
    two cross-entropies, those of the beginning and of the end. A span from i to j scores s_i + e_j - (s_0 + e_0), its log-odds against
    no answer in its window, so that windows can be compared; the best one of all windows is predicted.
    """

    items = "spans"

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of a token's vector zeroed in training")] = 0.1,
        longest: Annotated[int, Field(ge=1, description="tokens of the longest answer")] = 30,
    ) -> None:
        super().__init__(facts)
        if not isinstance(facts.task.target, Answers):
            raise MtlError(
                f"tasks.{facts.task.name}.head: this head finds answers in a context, and the task predicts "
                f"{facts.task.target.describe()}; use another head"
            )
        self.longest = longest
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(facts.dim, 2)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return scores (m, 2) of beginning and end at the m places of all rows."""
        (encoding,) = encodings
        scores: Tensor = self.out(self.dropout(items_of(encoding).gather(encoding.tokens)))
        return scores

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the mean over each row's windows (n,)."""
        if gold.starts is None:
            raise ValueError("answers without rows")
        window = gold["window"]
        starts = _window_starts(window)
        wrong = output.new_zeros(len(starts) - 1, dtype=torch.float32)
        for side, name in enumerate(("start", "end")):
            # Each window of a labeled row has one mark on each side, and the windows of other rows have none: their
            # loss is 0.
            marked = (gold[name] == 1).to(output.device)
            wrong = wrong.index_add(0, window[marked], -log_softmax(output[:, side], starts)[marked] / 2)
        row = torch.repeat_interleave(torch.arange(len(gold.starts) - 1, device=window.device), gold.starts.diff())
        row_of_window = row[starts[:-1]]
        sums = wrong.new_zeros(len(gold.starts) - 1).index_add(0, row_of_window, wrong)
        counts = torch.bincount(row_of_window, minlength=len(gold.starts) - 1).clamp(min=1)
        return sums / counts

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the best span of each row in characters, and its log-odds against no answer."""
        if items is None or items.spans is None:
            raise ValueError("answers need the places where they can stand")
        # There are no labels here that number the windows, but each window begins with its item for no answer.
        is_none = (items.spans == torch.tensor(NO_SPAN, device=items.spans.device)).all(1)
        starts = _window_starts(is_none.long().cumsum(0) - 1)
        score, first, last = self._best(output.double(), starts)
        row = torch.repeat_interleave(torch.arange(len(items.starts) - 1, device=starts.device), items.starts.diff())
        # The windows of a row stand side by side.
        windows = torch.searchsorted(row[starts[:-1]], torch.arange(len(items.starts), device=row.device))
        # Of equal maxima, `max` returns the first one, so the earliest window wins.
        best, place = padded(score, windows, NEVER).max(dim=1)
        where = windows[:-1] + place
        start = items.spans[(starts[:-1] + first)[where], 0]
        end = items.spans[(starts[:-1] + last)[where], 1]
        has_span = best > NEVER
        zero = torch.zeros_like(start)
        return Ragged(
            {"start": torch.where(has_span, start, zero), "end": torch.where(has_span, end, zero), "score": best}
        )

    def why_no_graph(self) -> str:
        """Return that the windows of a row are compared."""
        return "it searches the best span of all windows of a text"

    def _best(self, output: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return score, first and last place of the best span of each window (w,); of equal ones, the shortest, then the first."""
        begins, ends = (padded(output[:, side], starts, NEVER) for side in range(2))
        windows, length = begins.shape
        none = begins[:, 0] + ends[:, 0]
        score = begins.new_full((windows,), NEVER)
        first = torch.zeros(windows, dtype=torch.int64, device=output.device)
        last = torch.zeros_like(first)
        # A pass for each length needs (w, length) numbers instead of (w, length, length) for all pairs of places.
        # Lengths ascend and the comparison is strict, so the shortest of equally good spans remains.
        for extra in range(min(self.longest, length - 1)):
            # Places from 1 on, since place 0 stands for no answer.
            sums = begins[:, 1 : length - extra] + ends[:, 1 + extra :]
            best, place = sums.max(dim=1)
            better = best - none > score
            score = torch.where(better, best - none, score)
            first = torch.where(better, place + 1, first)
            last = torch.where(better, place + 1 + extra, last)
        return score.clamp_min(NEVER), first, last


def _window_starts(window: Tensor) -> Tensor:
    """Return where the places of each window begin (w + 1,), from the window of each place (m,), in order."""
    counts = torch.bincount(window)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
