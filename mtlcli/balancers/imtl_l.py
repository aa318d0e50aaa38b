"""IMTL-L: Liu et al. (Towards Impartial Multi-task Learning), ICLR 2021."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

LIMIT = 10.0
"""Largest |s|; a loss that goes to zero would send s to infinity."""


class IMTLL(Balancer):
    """Learn one log scale s_t per task that brings every weighted loss to 1, so that no task dominates by its unit.

    The objective is ``exp(s) L - s``, at its minimum where ``exp(s) L = 1``; s starts at 0. It can be negative, which is
    not an error. Each s is a separate parameter, so the optimizer's momentum does not move that of an absent task.

    Differences from the paper: its text was not available. The formula is that of LibMTL and another reimplementation. s is
    clamped to [-10, 10] after every step.

    Native scale: own.
    """

    native_scale = "own"
    assumes_zero = True

    def __init__(
        self,
        run: RunFacts,
        *,
        initial_scale: Annotated[float, Field(ge=-LIMIT, le=LIMIT, description="initial s of every task")] = 0.0,
    ) -> None:
        super().__init__(run)
        # One parameter per task: in a common tensor, Adam's momentum would move absent tasks.
        self.scale = nn.ParameterList(nn.Parameter(torch.tensor(initial_scale)) for _ in run.tasks)

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return exp(s_t) (k,); the objective is linear in the loss."""
        return torch.exp(self._scales_of(tasks)).detach()

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Return the objectives (k,) of losses (k,), means per row, of tasks (k,)."""
        s = self._scales_of(tasks)
        return torch.exp(s) * losses - s

    def on_step(self, result: StepResult) -> None:
        """Clamp s to its bounds."""
        with torch.no_grad():
            for s in self.scale:
                s.clamp_(-LIMIT, LIMIT)

    def _scales_of(self, tasks: Tensor) -> Tensor:
        return torch.stack([self.scale[task] for task in tasks.tolist()])
