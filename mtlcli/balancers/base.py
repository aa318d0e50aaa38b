"""The contract of a loss balancer: losses (k,) of a step's tasks to objectives (k,)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from mtlcli.plugin import Plugin
from mtlcli.tasks.targets import Tensors

Need = Literal["several-tasks", "all-tasks", "gram", "last-layer-gram", "losses-after"]
"""What a method requires of the steps or of the engine.

several-tasks: a step can hold more than one task. all-tasks: every step holds every task. gram, last-layer-gram: inner products
of the task gradients on all shared parameters, or on the last shared layer, for `own_objective` and `StepResult.gram`; the
engine then stores the gradient rows in every step. losses-after: `StepResult.losses_after`, which costs one more forward pass.
"""


@dataclass(frozen=True)
class BatchLosses:
    """The losses of one batch.

    rows (n,) index the training split, losses (n,) carry their graph, and `loss_of(gold) -> (n,)` computes the head's loss of the
    same output for other labels.
    """

    task: int
    rows: np.ndarray
    losses: Tensor
    loss_of: Callable[[Tensors], Tensor]


class Balancer(Plugin):
    """Turns the mean losses of a step's tasks into the objectives whose sum is minimized.

    A plugin overrides `known_weights` if its weights do not depend on the losses of the step, else `forward`. A task that
    is absent from the step is absent from `losses` and `tasks`. Learned values are `nn.Parameter`s: the engine fills their
    gradient from the sum of the objectives (or from `own_objective`), and they get optimizer.balancer_lr and no weight
    decay.

    The engine multiplies three factors into the gradient of a task: the balancer's weight, the weight of the task's visit
    (its share of the draws, `Visit.weight`), and the coefficient of the gradient regularizer, which gets rows already
    multiplied by the first two. A balancer sees one mean loss per task, however often the scheduler drew the task, and
    neither of the others.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    native_scale: ClassVar[str] = "sum"
    weighs_heads: ClassVar[bool] = True
    """True if the weight also multiplies the gradient of the task's head; False if heads train on their unweighted loss."""
    soft_targets: ClassVar[str] = ""
    """Name of the option whose keys are the tasks that learn from predictions beside their labels; empty if no task does."""
    assumes_zero: ClassVar[bool] = False
    """True if the weights depend on how far a loss is from 0, as if every loss could reach it."""

    def known_weights(self, tasks: Tensor) -> Tensor | None:
        """Return the detached weights (k,) of tasks (k,), indices into run.tasks; None if they depend on the losses."""
        return None

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Return the objectives (k,) of losses (k,), means per row, of tasks (k,), indices into run.tasks."""
        weights = self.known_weights(tasks)
        if weights is None:
            raise NotImplementedError(f"{type(self).__qualname__} overrides neither known_weights nor forward")
        # The weights are detached, so the derivative with respect to each loss is its weight.
        return weights * losses

    def own_objective(self, losses: Tensor, tasks: Tensor, gram: Tensor) -> Tensor | None:
        """Return a scalar for this balancer's parameters to minimize in place of the sum of the objectives, or None.

        Args:
            losses: detached losses, shape (k,).
            tasks: indices of the tasks in this step, shape (k,).
            gram: Gram matrix of the unweighted gradients that `needs` names, shape (k, k), float64.
        """
        return None

    def batch_losses(self, batch: BatchLosses) -> Tensor:
        """Return the losses (n,) whose gradient replaces that of the batch's losses, such as a mixture with a teacher's.

        Logs keep the unchanged losses.
        """
        return batch.losses
