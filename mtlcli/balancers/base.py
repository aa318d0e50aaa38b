"""The contract of a loss balancer: losses (k,) -> objectives (k,) (survey 3.1)."""

from typing import ClassVar, Literal

from torch import Tensor

from mtlcli.news import Listener
from mtlcli.plugin import Plugin

Need = Literal["several-tasks", "all-tasks", "gram"]
"""several-tasks: a step must be able to hold more than one task. all-tasks: every step must hold every task.
gram: `StepNews.gram` must be there after each step, so the engine keeps the rows even where it could do without."""


class Balancer(Plugin, Listener):
    """Turns the mean losses of a step's tasks into the objectives whose sum is minimised.

    A plugin overrides `known_weights` when its weights do not depend on the losses of the step, else `forward`. A task that
    is absent from the step is absent from `losses` and `tasks`. What the balancer learns is an nn.Parameter: the engine
    fills its gradient from the sum of the objectives, and it gets optimizer.balancer_lr and no weight decay.
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
