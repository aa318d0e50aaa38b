"""The contract of a loss balancer: losses (k,) -> objectives (k,) (survey 3.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from mtlcli.plugin import Plugin

Need = Literal["several-tasks", "all-tasks", "gram", "last-layer-gram", "losses-after"]
"""several-tasks: a step must be able to hold more than one task. all-tasks: every step must hold every task.
gram, last-layer-gram: inner products of the task gradients on all shared parameters, or on those of the last shared layer,
for `own_objective` and `StepNews.gram`, so the engine keeps the rows even where it could do without.
losses-after: `StepNews.losses_after` must be there, which costs one more forward pass."""


@dataclass(frozen=True)
class BatchLosses:
    """The losses of one batch: task, rows (n,) numbers within the training split, losses (n,) with their graph, and
    `loss_of(targets (n,)) -> (n,)`, the head's loss of the same output for other targets (class indices or scores)."""

    task: int
    rows: np.ndarray
    losses: Tensor
    loss_of: Callable[[Tensor], Tensor]


class Balancer(Plugin):
    """Turns the mean losses of a step's tasks into the objectives whose sum is minimised.

    A plugin overrides `known_weights` when its weights do not depend on the losses of the step, else `forward`. A task that
    is absent from the step is absent from `losses` and `tasks`. What the balancer learns is an nn.Parameter: the engine
    fills its gradient from the sum of the objectives (or from `own_objective`), and it gets optimizer.balancer_lr and no
    weight decay.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    native_scale: ClassVar[str] = "sum"
    weighs_heads: ClassVar[bool] = True
    """Whether a task's head gets its gradient times the task's weight, as the shared parameters do, or its plain one."""

    def known_weights(self, tasks: Tensor) -> Tensor | None:
        """tasks (k,) indices into run.tasks -> weights (k,) known before the losses, detached; None if they depend on them."""
        return None

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """losses (k,) mean per row, tasks (k,) indices into run.tasks -> objectives (k,)."""
        weights = self.known_weights(tasks)
        if weights is None:
            raise NotImplementedError(f"{type(self).__qualname__} overrides neither known_weights nor forward")
        return weights * losses

    def own_objective(self, losses: Tensor, tasks: Tensor, gram: Tensor) -> Tensor | None:
        """What this balancer's parameters minimise where that is not the sum of the objectives: losses (k,) detached, tasks
        (k,), gram (k, k) float64 of the unweighted gradients that `needs` asks for -> one number, or None."""
        return None

    def batch_losses(self, batch: BatchLosses) -> Tensor:
        """The losses (n,) that take the place of a batch's own in the gradient: those themselves, or a mixture with others.
        What is reported stays the plain loss."""
        return batch.losses
