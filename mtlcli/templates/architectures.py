"""Task vectors: an example to change. Say here where the architecture is from: authors, venue, year, arXiv id."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, run_encoder


class Example(Architecture):
    """Share one encoder, and add one learned vector per task to its hidden states."""

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        deviation: Annotated[float, Field(ge=0, description="standard deviation of the vectors before step 1")] = 0.02,
    ) -> None:
        super().__init__()
        self.encoder = facts.encoder
        dim = facts.encoder.get_input_embeddings().embedding_dim  # type: ignore[operator]
        self.vectors = nn.ParameterList(nn.Parameter(deviation * torch.randn(dim)) for _ in facts.tasks)

    def forward(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states plus the task's vector in the last layer."""
        hidden = run_encoder(self.encoder, inputs)
        last = hidden.last + self.vectors[task]
        return HiddenStates(last, (*hidden.layers[:-1], last) if inputs.all_layers else ())

    def private_parameters(self, task: int) -> list[nn.Parameter]:
        """Return the task's vector."""
        return [self.vectors[task]]
