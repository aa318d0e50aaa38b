"""Linear head: dropout and one linear layer on the pooled encoding (Devlin et al., NAACL 2019, arXiv:1810.04805)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.outputs import output_for
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


class Linear(Head):
    """Apply dropout and one linear layer to the encoding of a single text or a joined pair."""

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of the encoding zeroed in training")] = 0.1,
        gamma: Gamma = 1.0,
    ) -> None:
        super().__init__(facts)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(facts.dim, facts.outputs)
        self.kind = output_for(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return logits (n, classes or labels) or standardized scores (n,)."""
        output = self.out(self.dropout(encodings[0].pooled))
        return self.kind.shaped(output)

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy, or the loss of the error in standard deviations of the training rows."""
        return self.kind.loss(output, gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
