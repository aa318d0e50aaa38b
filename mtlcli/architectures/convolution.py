"""Convolution over token states: Lozano and Bravo (Exploring Multi-Task Learning for Robust Language Encoding with BERT), 2023."""

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, run_encoder
from mtlcli.errors import MtlError


class Convolution(Architecture):
    """Share one encoder and one convolution along its token states, placed before pooling.

    ``h' = activation(conv(h))`` on the states of one hidden layer, with as many channels as the encoder has; positions beyond
    either end of a text, padding included, count as zeros. Heads read h' as the last layer, so `encoder.layer` stays -1 and
    `layer` selects the convolved one. Lower layers are the encoder's.

    The form is section 4 of the report ("mean pooling + CNN"), after Choi et al., ICPR 2020; it reads layer -2. It states
    neither kernel nor activation, so 3 and ReLU are choices made here: without an activation, a convolution and a mean would
    collapse into one linear layer.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        kernel: Annotated[int, Field(ge=1, description="kernel size in tokens")] = 3,
        layer: Annotated[int, Field(description="hidden layer to convolve: -1 is the last, -2 the one before it")] = -1,
        activation: Annotated[
            Literal["relu", "gelu", "tanh"], Field(description="activation after the convolution")
        ] = "relu",
    ) -> None:
        super().__init__()
        self.encoder = facts.encoder
        config: Any = facts.encoder.config
        layers, width = config.num_hidden_layers, config.hidden_size
        if not -layers - 1 <= layer <= layers:
            raise MtlError(
                f"architecture.layer: found {layer}; expected 0 (embeddings) to {layers}, or -1 for the last"
            )
        self.kernel, self.layer = kernel, layer
        # No padding in the module: an even kernel needs different margins on both sides.
        self.convolution = nn.Conv1d(width, width, kernel)
        self.activation = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}[activation]()

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def layers_read(self, task: int) -> tuple[int, ...]:
        """Return the layer to convolve unless it is the last."""
        return () if self.layer == -1 else (self.layer,)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the convolved states (n, length, dim) as the last layer."""
        states = hidden.last if self.layer == -1 else hidden.layers[self.layer]
        if inputs.mask is not None:
            # Encoders leave arbitrary states at padding, which a kernel at the last word would read.
            states = states * inputs.mask.unsqueeze(-1)
        # An even kernel has one more token on the left, so that the length stays the same.
        margins = (self.kernel // 2, (self.kernel - 1) // 2)
        # Conv1d reads (n, dim, length).
        padded = nn.functional.pad(states.transpose(1, 2), margins)
        return hidden.with_last(self.activation(self.convolution(padded)).transpose(1, 2))
