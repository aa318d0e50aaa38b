"""RLW (random loss weighting): Lin et al., TMLR 2022, arXiv:2111.10603."""

import torch
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult


class RLW(Balancer):
    """Draws the weights anew at random for every step: a baseline that learned weights have to beat.

    The softmax of one standard normal number per task, over the tasks of the step, so the weights of a step sum to 1
    whichever tasks it visits (the authors' code draws for all tasks, which are all there). The numbers of the next step are
    drawn when a step is over: known before its losses, they cost no rows of gradients, and a checkpoint holds them. Native
    scale: mean.
    """

    needs = frozenset({"several-tasks"})
    native_scale = "mean"

    def __init__(self, run: RunFacts) -> None:
        super().__init__(run)
        self.register_buffer("drawn", self._draw())
        self.drawn: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Weights (k,) that sum to 1."""
        return torch.softmax(self.drawn[tasks], 0)

    def on_step(self, result: StepResult) -> None:
        """Draws for the next step."""
        self.drawn.copy_(self._draw())

    def _draw(self) -> Tensor:
        return torch.randn(len(self.run.tasks), generator=self.generator)
