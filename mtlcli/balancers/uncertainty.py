"""Uncertainty weighting: Kendall, Gal, Cipolla, CVPR 2018, arXiv:1705.07115, equations 7 and 10."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.news import StepNews
from mtlcli.plugin import RunFacts

LIMIT = 10.0
"""Largest |s|: weights between exp(-10) and exp(10)."""


class Uncertainty(Balancer):
    """Learns one log-variance s_t = log sigma_t^2 per task; a task that stays noisy ends up pulling less on the encoder.

    Classification uses exp(-s) L + s / 2 (equation 10, an approximation that is exact at sigma = 1), regression
    exp(-s) L / 2 + s / 2 (equation 7). The objective may go below zero; that is not an error. The survey's 3.1 leaves the
    term s / 2 out, without which sigma would grow for ever. s is put back into [-10, 10] after every step.
    """

    def __init__(
        self,
        run: RunFacts,
        *,
        initial_log_variance: Annotated[
            float, Field(ge=-LIMIT, le=LIMIT, description="s of every task before step 1")
        ] = 0.0,
    ) -> None:
        super().__init__(run)
        self.log_variance = nn.Parameter(torch.full((len(run.tasks),), initial_log_variance))
        self.register_buffer("share", torch.tensor([0.5 if task.is_regression else 1.0 for task in run.tasks]))
        self.share: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """share_t exp(-s_t) (k,): the objective is linear in the loss."""
        return (self.share[tasks] * torch.exp(-self.log_variance[tasks])).detach()

    def on_step(self, news: StepNews) -> None:
        """Puts what the optimizer moved beyond the bounds back on them."""
        with torch.no_grad():
            self.log_variance.clamp_(-LIMIT, LIMIT)

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """losses (k,) mean per row, tasks (k,) indices into run.tasks -> objectives (k,)."""
        s = self.log_variance[tasks]
        return self.share[tasks] * torch.exp(-s) * losses + s / 2
