"""GradNorm: Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018, arXiv:1711.02257."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

SMALLEST_WEIGHT, SMALLEST = 1e-3, 1e-8


class GradNorm(Balancer):
    """Learns one weight per task so that all train at a like pace, by their gradients on the last shared layer.

    The weights alone minimise sum_i |G_i - mean(G) r_i^alpha|, the second term held constant: G_i = w_i ||grad_W L_i|| on
    the last shared layer W, r_i = (L_i / L_i(0)) / mean of these. The step itself uses the weights of before. Sums and means
    are over the tasks of the step: a task that is absent keeps its weight, and those present keep their common sum, so that
    sum w = T after every step. A small alpha suits tasks that are alike (the paper: 0.12 for its toy, 1.5 for NYUv2).

    The weights move with optimizer.balancer_lr, 0.025 as in the paper, but along the run's schedule. A weight that falls
    below 0.001 is put back there, of which the paper says nothing. L_i(0) is the first loss seen, or the loss of a constant
    guess, for which the paper allows log C with C classes. LibMTL takes all shared parameters, T softmax(v) instead of the
    renormalisation and the mean of the first epoch as L_i(0). Native scale: sum.
    """

    needs = frozenset({"several-tasks", "last-layer-gram"})
    native_scale = "sum"
    cost = "gradient rows, norms on the last shared layer"

    def __init__(
        self,
        run: RunFacts,
        *,
        alpha: Annotated[
            float, Field(ge=0, le=10, description="how strongly a task that lags behind is pulled up; 0: equal norms")
        ] = 1.5,
        initial_loss: Annotated[
            Literal["first", "log-classes"],
            Field(description="L(0): the first loss seen, or that of a constant guess (log C; 1 for a score)"),
        ] = "first",
    ) -> None:
        super().__init__(run)
        self.alpha = alpha
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in run.tasks)
        guess = [1.0 if task.labels is None else math.log(len(task.labels)) for task in run.tasks]
        known = torch.tensor(guess) if initial_loss == "log-classes" else torch.zeros(len(guess))
        self.register_buffer("initial", known)  # 0: not seen yet
        self.initial: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """The weights of these tasks (k,)."""
        return self._chosen(tasks).detach()

    def own_objective(self, losses: Tensor, tasks: Tensor, gram: Tensor) -> Tensor:
        """losses (k,), tasks (k,), gram (k, k) on the last shared layer -> the L1 distance of the norms to their targets."""
        initial = self.initial[tasks]
        known = (initial > 0) & torch.isfinite(initial)
        initial = self.initial[tasks] = torch.where(known, initial, losses.clamp_min(SMALLEST))
        ratios = losses / initial
        rates = ratios / ratios.mean().clamp_min(SMALLEST)
        norms = self._chosen(tasks) * gram.diagonal().clamp_min(0).sqrt()
        target = (norms.mean() * rates**self.alpha).detach()
        return (norms - target).abs().sum()

    def on_step(self, result: StepResult) -> None:
        """Keeps the weights that were moved positive and the sum of all at T."""
        with torch.no_grad():
            weights = torch.stack(list(self.weights))
            present = weights[result.tasks]
            sum_of_present = len(weights) - (weights.sum() - present.sum())  # as it was before the optimizer's step
            present = present.clamp_min(SMALLEST_WEIGHT)
            for task, weight in zip(result.tasks.tolist(), present * sum_of_present / present.sum(), strict=True):
                self.weights[task].copy_(weight)

    def _chosen(self, tasks: Tensor) -> Tensor:
        return torch.stack([self.weights[task] for task in tasks.tolist()])
