"""IMTL-L: Liu et al. (Towards Impartial Multi-task Learning), ICLR 2021, the loss balance, second hand."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

LIMIT = 10.0
"""Largest |s|: weights between exp(-10) and exp(10)."""


class IMTLL(Balancer):
    """Learns one scale s_t per task that brings every weighted loss to 1, so that no task is larger than another.

    Minimises exp(s) L - s, which is at rest where exp(s) L = 1; s starts at 0. The paper's text was not at hand: the formula
    is that of LibMTL and of another re-implementation. The objective may go below zero; that is not an error. Every s is a
    parameter of its own, so that the optimizer's momentum does not move that of a task which is absent from the step; s is
    put back into [-10, 10] after every step, else a loss that goes to zero would send it to infinity. Native scale: its own.
    """

    native_scale = "own"

    def __init__(
        self,
        run: RunFacts,
        *,
        initial_scale: Annotated[float, Field(ge=-LIMIT, le=LIMIT, description="s of every task before step 1")] = 0.0,
    ) -> None:
        super().__init__(run)
        self.scale = nn.ParameterList(nn.Parameter(torch.tensor(initial_scale)) for _ in run.tasks)

    def known_weights(self, tasks: Tensor) -> Tensor:
        """exp(s_t) (k,): the objective is linear in the loss."""
        return torch.exp(self._chosen(tasks)).detach()

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """losses (k,) mean per row, tasks (k,) indices into run.tasks -> objectives (k,)."""
        s = self._chosen(tasks)
        return torch.exp(s) * losses - s

    def on_step(self, result: StepResult) -> None:
        """Puts what the optimizer moved beyond the bounds back on them."""
        with torch.no_grad():
            for s in self.scale:
                s.clamp_(-LIMIT, LIMIT)

    def _chosen(self, tasks: Tensor) -> Tensor:
        return torch.stack([self.scale[task] for task in tasks.tolist()])
