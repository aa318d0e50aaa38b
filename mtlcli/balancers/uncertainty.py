"""Uncertainty weighting: Kendall, Gal, Cipolla, CVPR 2018, arXiv:1705.07115, equations 7 and 10."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

LIMIT = 10.0
"""Largest |s|; a loss that goes to zero would send s to minus infinity."""


class Uncertainty(Balancer):
    """Learn one log variance s_t = log sigma_t^2 per task, so that noisy tasks have less weight.

    Classification: ``exp(-s) L + s / 2`` (equation 10, an approximation that is exact at sigma = 1). Regression: ``exp(-s)
    L / 2 + s / 2`` (equation 7). The objective can be negative, which is not an error. Each s is a separate parameter, so
    the optimizer's momentum does not move that of an absent task.

    Differences from the paper: s is clamped to [-10, 10] after every step.

    Differences from other implementations: LibMTL, mtan and nash-mtl use the regression form for all tasks (the first two
    with initial s = -0.5), SamsungLabs the classification form; `form` selects either. The survey (Chen, Zhang and Yang,
    2024, section 3.1) omits s / 2, without which sigma would grow without bound.

    Native scale: own.
    """

    native_scale = "own"
    assumes_zero = True

    def __init__(
        self,
        run: RunFacts,
        *,
        initial_log_variance: Annotated[float, Field(ge=-LIMIT, le=LIMIT, description="initial s of every task")] = 0.0,
        form: Annotated[
            Literal["by-task", "classification", "regression"],
            Field(description="equation of each task's type, or the same equation for all"),
        ] = "by-task",
    ) -> None:
        super().__init__(run)
        # One parameter per task: in a common tensor, Adam's momentum would move absent tasks.
        self.log_variance = nn.ParameterList(nn.Parameter(torch.tensor(initial_log_variance)) for _ in run.tasks)
        by_task = [task.target.noise == "gaussian" for task in run.tasks]
        halved = by_task if form == "by-task" else [form == "regression"] * len(by_task)
        self.register_buffer("share", torch.tensor([0.5 if half else 1.0 for half in halved]))
        self.share: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return share_t exp(-s_t) (k,); the objective is linear in the loss."""
        # Known before the losses, so that the engine can accumulate gradients without rows.
        return (self.share[tasks] * torch.exp(-self._log_variances_of(tasks))).detach()

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Return the objectives (k,) of losses (k,), means per row, of tasks (k,)."""
        s = self._log_variances_of(tasks)
        return self.share[tasks] * torch.exp(-s) * losses + s / 2

    def on_step(self, result: StepResult) -> None:
        """Clamp s to its bounds."""
        with torch.no_grad():
            for s in self.log_variance:
                s.clamp_(-LIMIT, LIMIT)

    def _log_variances_of(self, tasks: Tensor) -> Tensor:
        return torch.stack([self.log_variance[task] for task in tasks.tolist()])
