"""Softmax of the losses: an example to change. Say here where the method is from: authors, venue, year, arXiv id."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts


class Example(Balancer):
    """Weight the tasks of a step by the softmax of their losses, so that the worst task moves the encoder most.

    The weights of k tasks sum to k, as with equal weights. Native scale: sum over the step's tasks.
    """

    def __init__(
        self,
        run: RunFacts,
        *,
        temperature: Annotated[float, Field(gt=0, description="1: plain softmax; large: nearly equal weights")] = 1.0,
    ) -> None:
        super().__init__(run)
        self.temperature = temperature

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Return objectives (k,) for losses (k,), mean per row, and tasks (k,), indices into run.tasks."""
        weights = torch.softmax(losses.detach() / self.temperature, dim=0)
        return len(losses) * weights * losses
