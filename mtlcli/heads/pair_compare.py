"""Pair head on compared encodings: Tai, Socher and Manning (Tree-LSTM), ACL 2015, arXiv:1503.00075, after its public reimplementations."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from mtlcli.heads.base import EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.layers import Activation, HiddenSizes, hidden_layers
from mtlcli.heads.outputs import output_for
from mtlcli.heads.pooling import pool
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


class PairCompare(Head):
    """Apply hidden layers to symmetric features of the two encodings of a pair, so that swapping the texts changes nothing.

    In each layer of `layers`, a and b are the means over the tokens, scaled to length sqrt(dim). The head reads a * b and |a - b|
    (as Tree-LSTM does in public reimplementations; the paper was not at hand), and a + b, which is ours: the topic of the pair.
    The scale is ours too: it makes the numbers of all encoders and layers comparable. `tasks.NAME.layer` has no effect.

    It suits encoders that already place similar texts close together. A frozen encoder (a stage of the scheduler `stages` with
    `freeze: [encoder]`) keeps this property, which fine-tuning on few pairs can destroy.
    """

    sides = (2,)
    all_layers = True

    def __init__(
        self,
        facts: HeadFacts,
        *,
        layers: Annotated[
            tuple[int, ...],
            Field(min_length=1, description="hidden layers that are read: -1 the last, -2 the one before"),
        ] = (-1, -2),
        hidden: HiddenSizes = (512,),
        activation: Annotated[Activation, Field(description="after each hidden layer")] = "relu",
        dropout: Annotated[float, Field(ge=0, lt=1, description="share zeroed before every layer in training")] = 0.4,
        gamma: Gamma = 1.0,
    ) -> None:
        super().__init__(facts)
        self.further_layers = layers
        read = 3 * len(layers) * facts.dim
        self.hidden, width = hidden_layers(facts, hidden, activation, dropout, None, read)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, facts.outputs)
        self.kind = output_for(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return logits (n, classes or labels) or standardized scores (n,)."""
        parts = []
        for layer in self.further_layers:
            means = (pool(encoding.layers[layer], encoding.mask, "mean").float() for encoding in encodings)
            a, b = (math.sqrt(self.facts.dim) * normalize(mean, dim=-1) for mean in means)
            parts += [a * b, (a - b).abs(), a + b]
        output = self.out(self.dropout(self.hidden(torch.cat(parts, dim=-1))))
        return self.kind.shaped(output)

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy, or the loss of the error in standard deviations of the training rows."""
        return self.kind.loss(output, gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
