"""Uncertainty weighting: Kendall, Gal, Cipolla, CVPR 2018, arXiv:1705.07115, equations 7 and 10."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

LIMIT = 10.0
"""Largest |s|: weights between exp(-10) and exp(10)."""


class Uncertainty(Balancer):
    """Learns one log-variance s_t = log sigma_t^2 per task; a task that stays noisy ends up pulling less on the encoder.

    Classification uses exp(-s) L + s / 2 (equation 10, an approximation that is exact at sigma = 1), regression
    exp(-s) L / 2 + s / 2 (equation 7). Well-known codes take one of the two for every task, which `form` asks for:
    LibMTL, mtan and nash-mtl that of regression (the first two from s = -0.5), SamsungLabs that of classification. The
    objective may go below zero; that is not an error. The survey's 3.1 leaves the term s / 2 out, without which sigma would
    grow for ever. Every s is a parameter of its own, so that the optimizer's momentum does not move that of a task which is
    absent from the step; s is put back into [-10, 10] after every step. Native scale: its own.
    """

    native_scale = "own"

    def __init__(
        self,
        run: RunFacts,
        *,
        initial_log_variance: Annotated[
            float, Field(ge=-LIMIT, le=LIMIT, description="s of every task before step 1")
        ] = 0.0,
        form: Annotated[
            Literal["by-task", "classification", "regression"],
            Field(description="equation by the kind of each task, or that of one kind for all"),
        ] = "by-task",
    ) -> None:
        super().__init__(run)
        self.log_variance = nn.ParameterList(nn.Parameter(torch.tensor(initial_log_variance)) for _ in run.tasks)
        halved = [task.is_regression if form == "by-task" else form == "regression" for task in run.tasks]
        self.register_buffer("share", torch.tensor([0.5 if half else 1.0 for half in halved]))
        self.share: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """share_t exp(-s_t) (k,): the objective is linear in the loss."""
        return (self.share[tasks] * torch.exp(-self._chosen(tasks))).detach()

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """losses (k,) mean per row, tasks (k,) indices into run.tasks -> objectives (k,)."""
        s = self._chosen(tasks)
        return self.share[tasks] * torch.exp(-s) * losses + s / 2

    def on_step(self, result: StepResult) -> None:
        """Puts what the optimizer moved beyond the bounds back on them."""
        with torch.no_grad():
            for s in self.log_variance:
                s.clamp_(-LIMIT, LIMIT)

    def _chosen(self, tasks: Tensor) -> Tensor:
        return torch.stack([self.log_variance[task] for task in tasks.tolist()])
