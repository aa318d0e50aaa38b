"""Linear head: dropout and one linear layer on the pooled encoding (Devlin et al., NAACL 2019, arXiv:1810.04805)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import ClassesOrScore, Decoded, EncoderOutput, Gamma, Head, HeadFacts


class Linear(Head):
    """Dropout, then one linear layer: logits for classes, one number for a score. Reads a single text or a joined pair."""

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
        self.kind = ClassesOrScore(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """One encoding -> logits (n, classes) or standardised scores (n,)."""
        output = self.out(self.dropout(encodings[0].pooled))
        return output.squeeze(-1) if self.facts.task.is_regression else output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or the error in standard deviations of the training labels."""
        return self.kind.loss(output, targets)

    def decode(self, output: Tensor) -> Decoded:
        """Softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
