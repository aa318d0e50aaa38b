"""Mean and maximum: an example to change. Say here where the method is from: authors, venue, year, arXiv id."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.outputs import output_for
from mtlcli.heads.pooling import pool
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


class Example(Head):
    """Apply dropout and one linear layer to the mean and the maximum of the token vectors, whatever the run's pooling."""

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of the features zeroed in training")] = 0.1,
    ) -> None:
        super().__init__(facts)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * facts.dim, facts.outputs)
        self.kind = output_for(facts.task)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return logits (n, classes or labels) or standardized scores (n,)."""
        encoding = encodings[0]
        features = torch.cat([pool(encoding.tokens, encoding.mask, kind) for kind in ("mean", "max")], dim=-1)
        return self.kind.shaped(self.out(self.dropout(features)))

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy, or the squared error in standard deviations of the training rows (n,)."""
        return self.kind.loss(output, gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
