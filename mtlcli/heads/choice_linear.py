"""Choices by one linear layer on the encoding of each with its question (Devlin et al., NAACL 2019, arXiv:1810.04805, section 4.4)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.segments import log_softmax
from mtlcli.heads.tag_linear import items_of, sum_by_row
from mtlcli.tasks.choices import Choices, decided
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


class ChoiceLinear(Head):
    """Score each choice of a row by dropout and one linear layer; their softmax over the row's choices is the prediction."""

    items = "choices"

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of the encoding zeroed in training")] = 0.1,
    ) -> None:
        super().__init__(facts)
        if not isinstance(facts.task.target, Choices):
            raise MtlError(
                f"tasks.{facts.task.name}.head: this head chooses one of several texts, and the task predicts "
                f"{facts.task.target.describe()}; use another head"
            )
        self.dropout = nn.Dropout(dropout)
        # Without a bias, which the softmax over the choices would cancel.
        self.out = nn.Linear(facts.dim, 1, bias=False)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return scores (m,) of the m choices of all rows."""
        (encoding,) = encodings
        vectors = encoding.pooled.index_select(0, items_of(encoding).sequence)
        scores: Tensor = self.out(self.dropout(vectors))
        return scores.squeeze(-1)

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy of each row's right choice (n,)."""
        if gold.starts is None:
            raise ValueError("choices without rows")
        chosen = gold["chosen"] == 1
        # A row without a label has no 1 in `chosen`, so its loss is 0.
        return sum_by_row(-log_softmax(output, gold.starts).masked_fill(~chosen, 0.0), gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the choice of each row and the probabilities of all."""
        if items is None:
            raise ValueError("choices of no rows")
        probabilities = log_softmax(output, items.starts).exp()
        return decided(probabilities.detach().cpu().numpy(), items.starts.cpu().numpy()).tensors()
