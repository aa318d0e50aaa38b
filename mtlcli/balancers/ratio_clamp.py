"""Ratio clamp: Song et al. (Hierarchical Multi-Task Learning), IJCAI 2020, in the form of survey 3.1, second hand."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

SMALLEST = 1e-8


class RatioClamp(Balancer):
    """Holds one primary task back until the loss of a reference task has fallen below its own; all others count 1.

    lambda <- max(min(L_primary / L_reference * lambda, 1), 0.01), starting from 0.1, after every step that visits the
    primary task, with the last loss seen of the reference task. The survey does not say how often: being recursive, the
    product of the ratios drifts to a bound within a few steps unless they hover at 1, so that in effect the weight is 1
    while the primary loss is the larger one, and 0.01 while it is the smaller. Compare losses of one scale only. A run of
    one task has no reference, and its task counts 1. Native scale: sum. Raises MtlError for tasks that the run does not
    have or that are one and the same, and for bounds in the wrong order.
    """

    native_scale = "sum"

    def __init__(
        self,
        run: RunFacts,
        *,
        primary: Annotated[str | None, Field(description="task whose weight moves; null: the first of the run")] = None,
        reference: Annotated[
            str | None, Field(description="task it is compared with; null: the first of the others")
        ] = None,
        initial: Annotated[float, Field(gt=0, description="weight of the primary task before step 1")] = 0.1,
        lowest: Annotated[float, Field(gt=0, description="lower bound of that weight")] = 0.01,
        highest: Annotated[float, Field(gt=0, description="upper bound of that weight")] = 1.0,
    ) -> None:
        super().__init__(run)
        names = [task.name for task in run.tasks]
        for option, name in (("primary", primary), ("reference", reference)):
            if name is not None and name not in names:
                raise MtlError(f"balancer.{option}: no task {name}{suggest(name, names)}")
        if primary is not None and primary == reference:
            raise MtlError(f"balancer.reference: {reference} is the primary task too; name another")
        if not lowest <= initial <= highest:
            raise MtlError(
                f"balancer.initial: found {initial:g}; expected {lowest:g} (lowest) to {highest:g} (highest)"
            )
        self.primary = names.index(primary or next((name for name in names if name != reference), names[0]))
        others = [name for name in names if name != names[self.primary]]
        self.reference = names.index(reference or others[0]) if others else None
        self.lowest, self.highest = lowest, highest
        self.register_buffer("weight", torch.tensor(initial if others else 1.0))
        self.register_buffer("reference_loss", torch.tensor(0.0))  # 0: not seen yet
        self.weight: Tensor
        self.reference_loss: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """The primary task's weight, ones for the others (k,)."""
        return torch.where(tasks == self.primary, self.weight, 1.0)

    def on_step(self, result: StepResult) -> None:
        """Moves the weight by the ratio of the losses."""
        losses = dict(zip(result.tasks.tolist(), result.losses, strict=True))
        if self.reference in losses:
            self.reference_loss.copy_(losses[self.reference].clamp_min(SMALLEST))
        if self.primary in losses and self.reference_loss > 0:
            ratio = losses[self.primary] / self.reference_loss
            self.weight.copy_((ratio * self.weight).clamp(self.lowest, self.highest))
