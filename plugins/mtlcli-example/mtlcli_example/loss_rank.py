"""Weights by the rank of the loss: an example, not from a paper."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts


class LossRank(Balancer):
    """Weighs the tasks of a step by the rank of their losses, evenly from 1 - spread (the lowest) to 1 + spread (the highest).

    Unlike the losses themselves, ranks do not mind that one task counts nats and another squared errors of unlike size; the
    price is that a small lead weighs as much as a large one. Equal losses share the mean of their ranks. The weights of k
    tasks sum to k. Native scale: sum.
    """

    needs = frozenset({"several-tasks"})

    def __init__(
        self,
        run: RunFacts,
        *,
        spread: Annotated[float, Field(ge=0, le=1, description="0: equal weights; 1: from 0 to 2")] = 0.5,
    ) -> None:
        super().__init__(run)
        self.spread = spread

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """losses (k,) mean per row, tasks (k,) indices into run.tasks -> objectives (k,)."""
        fixed = losses.detach()
        lead = (fixed[:, None] - fixed).sign().sum(1)  # tasks below less tasks above: 1 - k to k - 1
        return (1 + self.spread * lead / max(1, len(losses) - 1)) * losses
