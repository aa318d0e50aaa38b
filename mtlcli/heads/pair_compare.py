"""Pair head on compared encodings: Tai, Socher and Manning (Tree-LSTM), ACL 2015, arXiv:1503.00075, after its public reimplementations."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from mtlcli.heads.base import ClassesOrScore, Decoded, EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.layers import Activation, HiddenSizes, hidden_layers
from mtlcli.heads.pooling import pool


class PairCompare(Head):
    """Hidden layers on how the two encodings of a pair compare, so that swapping the texts changes nothing.

    From each layer named, a and b are the means over the tokens, scaled to length sqrt(dim), and the head reads a * b, |a - b|
    (as Tree-LSTM does in public reimplementations; the paper was not at hand) and a + b, which is ours: what a pair is about.
    The scale is ours too: it makes the numbers of every encoder and layer alike. The layers are those of the option, whatever
    `tasks.NAME.layer` says.

    Made for encoders that already place similar texts side by side: freeze one (a stage of the scheduler `stages` with
    `freeze: [encoder]`) and it keeps what it knows, which fine-tuning on few pairs takes from it.
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
        self.kind = ClassesOrScore(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Two encodings with their layers -> logits (n, classes) or standardised scores (n,)."""
        parts = []
        for layer in self.further_layers:
            each = (pool(encoding.layers[layer], encoding.mask, "mean").float() for encoding in encodings)
            a, b = (math.sqrt(self.facts.dim) * normalize(one, dim=-1) for one in each)
            parts += [a * b, (a - b).abs(), a + b]
        output = self.out(self.dropout(self.hidden(torch.cat(parts, dim=-1))))
        return output.squeeze(-1) if self.facts.task.is_regression else output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or the error in standard deviations of the training labels."""
        return self.kind.loss(output, targets)

    def decode(self, output: Tensor) -> Decoded:
        """Softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
