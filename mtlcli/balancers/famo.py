"""FAMO (fast adaptive multitask optimization): Liu et al., NeurIPS 2023, arXiv:2306.03792."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

EPSILON = 1e-8
BETAS = (0.9, 0.999)


class FAMO(Balancer):
    """Shifts weight to the tasks whose loss fell least in the step before, so that all improve at a like rate.

    Objective c sum_t z_t log D_t with z = softmax(w), w the logits, D = L + 1e-8 (the least loss of every task is taken as 0) and the
    constant c = 1 / sum_t (z_t / D_t), so the weights c z_t / D_t sum to 1. After the update the losses of the same batches
    are computed once more; w then takes a step of Adam down the derivative of sum_t z_t (log D_t before - after). Softmax
    and sums are over the tasks of the step; w and averages of an absent task rest.

    w moves after the optimizer's step, so it is no parameter of that optimizer: it has its own Adam, kept in buffers, with
    a learning rate that follows no schedule. weight_decay is 0.001 as in most of the authors' run scripts (their class:
    0.01), and is part of the gradient. Their code draws other dropout masks for the second pass, whose noise then counts
    as progress; here the masks are the same. Their clipping at norm 1 is optimizer.clip. Native scale: mean.
    """

    needs = frozenset({"several-tasks", "losses-after"})
    native_scale = "mean"
    cost = "gradient rows, one forward pass more per step"

    def __init__(
        self,
        run: RunFacts,
        *,
        lr: Annotated[float, Field(gt=0, description="learning rate of w")] = 0.025,
        weight_decay: Annotated[
            float, Field(ge=0, description="pull of w towards equal weights (gamma of the paper)")
        ] = 1e-3,
    ) -> None:
        super().__init__(run)
        self.lr, self.weight_decay = lr, weight_decay
        for name in ("logits", "average", "square", "steps"):
            self.register_buffer(name, torch.zeros(len(run.tasks)))
        self.logits: Tensor
        self.average: Tensor
        self.square: Tensor
        self.steps: Tensor

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """losses (k,) mean per row, tasks (k,) indices into run.tasks -> objectives (k,), perhaps below zero."""
        shares, distances = torch.softmax(self.logits[tasks], 0), losses + EPSILON
        return shares * distances.log() / (shares / distances).sum().detach()

    def on_step(self, result: StepResult) -> None:
        """Moves w by what the update did to the losses."""
        if result.losses_after is None:
            return
        tasks = result.tasks
        progress = (result.losses + EPSILON).log() - (result.losses_after + EPSILON).log()
        shares = torch.softmax(self.logits[tasks], 0)
        gradient = shares * (progress - (shares * progress).sum()) + self.weight_decay * self.logits[tasks]
        self.steps[tasks] += 1
        self.average[tasks] += (1 - BETAS[0]) * (gradient - self.average[tasks])
        self.square[tasks] += (1 - BETAS[1]) * (gradient**2 - self.square[tasks])
        average = self.average[tasks] / (1 - BETAS[0] ** self.steps[tasks])
        square = self.square[tasks] / (1 - BETAS[1] ** self.steps[tasks])
        self.logits[tasks] -= self.lr * average / (square.sqrt() + EPSILON)
