"""Task vectors: an example to change. Say here where the architecture is from: authors, venue, year, arXiv id."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder


class Shift(nn.Module):
    """Add a learned vector to every hidden state."""

    def __init__(self, dim: int, deviation: float) -> None:
        super().__init__()
        self.vector = nn.Parameter(deviation * torch.randn(dim))

    def forward(self, states: Tensor) -> Tensor:
        """Return the shifted states (n, length, dim)."""
        return states + self.vector


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
        self.shifts = facts.task_modules("shifts", lambda task: Shift(facts.width, deviation))

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the states with the last layer shifted by the task's vector."""
        return hidden.with_last(self.shifts.of(task)(hidden.last))

    def parts(self) -> dict[str, Part]:
        """Return one part per task: its vector."""
        return self.shifts.parts("shifts")
