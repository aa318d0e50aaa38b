"""Multilayer perceptron on the encoding of one text: Lozano and Bravo 2023, section 4, architectures V1 to V3."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.layers import Activation, HiddenSizes, Shared, hidden_layers
from mtlcli.heads.outputs import output_for
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


class MLP(Head):
    """Apply hidden layers and one linear output layer. Heads can share the hidden layers.

    This is the sentiment head of Lozano and Bravo. `shared` names the hidden layers (their V3: one MLP behind the encoder for
    all tasks): all heads with the same name hold the same module, which then counts as shared by their tasks, and each has an
    output layer of its own. The paper prints neither width nor activation: 256 and ReLU are ours.
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
        self.kind = output_for(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return logits (n, classes or labels) or standardized scores (n,)."""
        output = self.out(self.dropout(self.hidden(encodings[0].pooled)))
        return self.kind.shaped(output)

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy, or the loss of the error in standard deviations of the training rows."""
        return self.kind.loss(output, gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the softmax and its largest class, or the score in the units of the data."""
        return self.kind.decode(output)
