"""Pair head on concatenated encodings: Conneau et al. (InferSent), EMNLP 2017, arXiv:1705.02364; RD 4.4."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import ClassesOrScore, Decoded, EncoderOutput, Gamma, Head, HeadFacts


class PairConcat(Head):
    """Dropout on the encodings a and b of a pair, then one linear layer on [a, b, |a-b|] (and a*b where asked).

    RD's heads are [a, b] alone: `difference: false`.
    """

    sides = (2,)

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of each encoding zeroed in training")] = 0.1,
        difference: Annotated[bool, Field(description="add |a-b|")] = True,
        product: Annotated[bool, Field(description="add a*b, element by element")] = False,
        gamma: Gamma = 1.0,
    ) -> None:
        super().__init__(facts)
        self.dropout = nn.Dropout(dropout)
        self.difference, self.product = difference, product
        self.out = nn.Linear(facts.dim * (2 + difference + product), facts.outputs)
        self.kind = ClassesOrScore(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Two encodings -> logits (n, classes) or standardised scores (n,)."""
        a, b = (self.dropout(encoding.pooled) for encoding in encodings)
        parts = [a, b]
        if self.difference:
            parts.append((a - b).abs())
        if self.product:
            parts.append(a * b)
        output = self.out(torch.cat(parts, dim=-1))
        return output.squeeze(-1) if self.facts.task.is_regression else output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or the error in standard deviations of the training labels."""
        return self.kind.loss(output, targets)

    def decode(self, output: Tensor) -> Decoded:
        """Softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
