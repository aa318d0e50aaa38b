"""Multilayer perceptron on the encoding of one text: LB 4, architectures V1 to V3."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import ClassesOrScore, Decoded, EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.layers import Activation, HiddenSizes, Shared, hidden_layers


class MLP(Head):
    """Hidden layers, then one linear output: logits for classes, one number for a score. Heads may share the hidden layers.

    LB's sentiment head. `shared` names the hidden layers (LB V3: one MLP behind the encoder for all tasks): every head that
    gives the same name holds the same module, which then counts as shared by their tasks, and has its own output layer.
    LB prints neither width nor activation: 256 and ReLU are ours.
    """

    def __init__(
        self,
        facts: HeadFacts,
        *,
        hidden: HiddenSizes = (256,),
        activation: Annotated[Activation, Field(description="after each hidden layer")] = "relu",
        dropout: Annotated[float, Field(ge=0, lt=1, description="share zeroed before every layer in training")] = 0.1,
        shared: Shared = None,
        gamma: Gamma = 1.0,
    ) -> None:
        super().__init__(facts)
        self.hidden, width = hidden_layers(facts, hidden, activation, dropout, shared)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, facts.outputs)
        self.kind = ClassesOrScore(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """One encoding -> logits (n, classes) or standardised scores (n,)."""
        output = self.out(self.dropout(self.hidden(encodings[0].pooled)))
        return output.squeeze(-1) if self.facts.task.is_regression else output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or the error in standard deviations of the training labels."""
        return self.kind.loss(output, targets)

    def decode(self, output: Tensor) -> Decoded:
        """Softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
