"""Mean and maximum: an example to change. Say here where the method is from: authors, venue, year, arXiv id."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import ClassesOrScore, Decoded, EncoderOutput, Head, HeadFacts
from mtlcli.heads.pooling import pool


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
        self.kind = ClassesOrScore(facts.task)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """One encoding of tokens (n, length, dim) -> logits (n, classes) or standardised scores (n,)."""
        one = encodings[0]
        features = torch.cat([pool(one.tokens, one.mask, kind) for kind in ("mean", "max")], dim=-1)
        output = self.out(self.dropout(features))
        return output.squeeze(-1) if self.facts.task.is_regression else output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or squared error in standard deviations of the training labels (n,)."""
        return self.kind.loss(output, targets)

    def decode(self, output: Tensor) -> Decoded:
        """Softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
