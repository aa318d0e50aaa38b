"""Multi-layer perceptron head: one hidden layer, as in Rumelhart, Hinton, Williams, Nature 1986."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.outputs import output_for
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


class HiddenLayer(Head):
    """Dropout, one hidden layer with GELU, dropout, one linear layer; on both encodings side by side where a row has two."""

    sides = (1, 2)

    def __init__(
        self,
        facts: HeadFacts,
        *,
        hidden: Annotated[int, Field(ge=1, le=8192, description="width of the hidden layer")] = 64,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share zeroed in training, before both layers")] = 0.1,
    ) -> None:
        super().__init__(facts)
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(facts.dim * facts.sides, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, facts.outputs),
        )
        self.kind = output_for(facts.task)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return logits (n, classes) or standardized scores (n,)."""
        return self.kind.shaped(self.layers(torch.cat([encoding.pooled for encoding in encodings], dim=-1)))

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy, or the squared error in standard deviations of the training rows (n,)."""
        return self.kind.loss(output, gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
