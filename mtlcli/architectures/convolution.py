"""Convolution over token states: LB 4, "mean pooling + CNN" (after Choi et al., ICPR 2020); hard sharing as in Caruana 1997."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, run_encoder
from mtlcli.errors import MtlError


class Convolution(Architecture):
    """Every task reads the same encoder through one convolution along its token states, before pooling.

    h' = activation(conv(h)) on the states of one hidden layer, as wide as the encoder; padding counts as zeros on both ends of
    a text. Heads get h' as the last layer, so `encoder.layer` stays -1 and `layer` here says which one is convolved (LB: -2).
    The layers below are as the encoder gives them. LB states neither kernel nor activation: 3 and ReLU are ours; without
    activation, a convolution and a mean make one linear layer.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        kernel: Annotated[int, Field(ge=1, description="tokens that one position sees")] = 3,
        layer: Annotated[int, Field(description="hidden layer it reads: -1 the last, -2 the one before")] = -1,
        activation: Annotated[Literal["relu", "gelu", "tanh"], Field(description="after the convolution")] = "relu",
    ) -> None:
        super().__init__()
        self.encoder = facts.encoder
        config: Any = facts.encoder.config
        layers, width = config.num_hidden_layers, config.hidden_size
        if not -layers - 1 <= layer <= layers:
            raise MtlError(
                f"architecture.layer: found {layer}: this encoder has 0 (embeddings) to {layers}, or -1 for the last"
            )
        self.kernel, self.layer = kernel, layer
        self.convolution = nn.Conv1d(width, width, kernel)
        self.activation = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}[activation]()

    def forward(self, task: int, inputs: Inputs) -> HiddenStates:
        """The convolved states (n, length, dim) in the place of the encoder's last ones."""
        found = run_encoder(self.encoder, replace(inputs, all_layers=inputs.all_layers or self.layer != -1))
        states = found.last if self.layer == -1 else found.layers[self.layer]
        if inputs.mask is not None:
            states = states * inputs.mask.unsqueeze(-1)
        sides = (self.kernel // 2, (self.kernel - 1) // 2)
        last = self.activation(self.convolution(nn.functional.pad(states.transpose(1, 2), sides))).transpose(1, 2)
        return HiddenStates(last, (*found.layers[:-1], last) if inputs.all_layers else ())
