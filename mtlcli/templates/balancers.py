"""Softmax of the losses: an example to change. Say here where the method is from: authors, venue, year, arXiv id."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts


class Example(Balancer):
    """Weighs the tasks of a step by the softmax of their losses, so that the worst of them moves the encoder most.

    The weights of k tasks sum to k, as those of equal weighting do. Native scale: sum over the step's tasks.
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
        """losses (k,) mean per row, tasks (k,) indices into run.tasks -> objectives (k,)."""
        weights = torch.softmax(losses.detach() / self.temperature, dim=0)
        return len(losses) * weights * losses
