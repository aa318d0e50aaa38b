"""Pair head on concatenated encodings: Conneau et al. (InferSent), EMNLP 2017, arXiv:1705.02364; Ramos and Dalmia 2023, section 4.4."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.outputs import output_for
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


class PairConcat(Head):
    """Apply dropout to the encodings a and b of a pair, and one linear layer to [a, b, |a-b|], with a*b if `product` is set.

    The heads of Ramos and Dalmia read [a, b] alone: `difference: false`.
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
        self.kind = output_for(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return logits (n, classes or labels) or standardized scores (n,)."""
        a, b = (self.dropout(encoding.pooled) for encoding in encodings)
        parts = [a, b]
        if self.difference:
            parts.append((a - b).abs())
        if self.product:
            parts.append(a * b)
        output = self.out(torch.cat(parts, dim=-1))
        return self.kind.shaped(output)

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy, or the loss of the error in standard deviations of the training rows."""
        return self.kind.loss(output, gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
