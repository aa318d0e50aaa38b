"""Multi-layer perceptron head: one hidden layer, as in Rumelhart, Hinton, Williams, Nature 1986."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import ClassesOrScore, Decoded, EncoderOutput, Head, HeadFacts


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
        self.kind = ClassesOrScore(facts.task)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """One or two encodings (n, dim) -> logits (n, classes) or standardised scores (n,)."""
        output = self.layers(torch.cat([encoding.pooled for encoding in encodings], dim=-1))
        return output.squeeze(-1) if self.facts.task.is_regression else output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or squared error in standard deviations of the training labels (n,)."""
        return self.kind.loss(output, targets)

    def decode(self, output: Tensor) -> Decoded:
        """Softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
