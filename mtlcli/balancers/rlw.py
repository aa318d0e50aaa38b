"""RLW (random loss weighting): Lin et al., TMLR 2022, arXiv:2111.10603."""

import torch
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult


class RLW(Balancer):
    """Draw random weights for every step, a baseline that learned weights have to beat.

    The weights are the softmax of one standard normal number per task, over the tasks of the step, so they sum to 1
    whichever tasks it visits. The numbers for the next step are drawn at the end of a step: weights known before the losses
    need no gradient rows, and a checkpoint stores them.

    Differences from the authors' code: it draws for all tasks, because every step holds all of them.

    Native scale: mean.
    """

    needs = frozenset({"several-tasks"})
    native_scale = "mean"

    def __init__(self, run: RunFacts) -> None:
        super().__init__(run)
        # A buffer, so that a resumed run continues with the weights of an uninterrupted one.
        self.register_buffer("logits", self._draw())
        self.logits: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return weights (k,) that sum to 1."""
        return torch.softmax(self.logits[tasks], 0)

    def on_step(self, result: StepResult) -> None:
        """Draw the numbers for the next step."""
        self.logits.copy_(self._draw())

    def _draw(self) -> Tensor:
        # For all tasks of the run, so that later draws do not depend on the tasks of earlier steps.
        return torch.randn(len(self.run.tasks), generator=self.generator)
