"""Ratio clamp: Song et al. (Hierarchical Multi-Task Learning), IJCAI 2020 (as described by Chen, Zhang and Yang, 2024, section 3.1)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

EPSILON = 1e-8


class RatioClamp(Balancer):
    """Hold back one primary task until the loss of a reference task has fallen below the primary's; all others have weight 1.

    ``lambda <- max(min(L_primary / L_reference * lambda, 1), 0.01)``, starting from 0.1, after every step that visits the
    primary task, with the last observed loss of the reference task. Both losses should have one scale.

    The survey does not state how often to update. The product of ratios reaches a bound within a few steps unless the ratio
    stays near 1, so in effect the weight is 1 while the primary loss is larger and 0.01 while it is smaller. In a run of
    one task there is no reference, and the task has weight 1.

    Native scale: sum. Raises MtlError for tasks that the run does not have, for primary = reference, and for bounds in the
    wrong order.
    """

    native_scale = "sum"

    def __init__(
        self,
        run: RunFacts,
        *,
        primary: Annotated[
            str | None, Field(description="task whose weight changes; null: the first of the run")
        ] = None,
        reference: Annotated[
            str | None, Field(description="task to compare it with; null: the first other task")
        ] = None,
        initial: Annotated[float, Field(gt=0, description="initial weight of the primary task")] = 0.1,
        lowest: Annotated[float, Field(gt=0, description="lower bound of that weight")] = 0.01,
        highest: Annotated[float, Field(gt=0, description="upper bound of that weight")] = 1.0,
    ) -> None:
        super().__init__(run)
        names = [task.name for task in run.tasks]
        for option, name in (("primary", primary), ("reference", reference)):
            if name is not None and name not in names:
                raise MtlError(f"balancer.{option}: no task {name}{suggest(name, names)}")
        if primary is not None and primary == reference:
            raise MtlError(f"balancer.reference: {reference} is also the primary task; choose a different one")
        if not lowest <= initial <= highest:
            raise MtlError(
                f"balancer.initial: found {initial:g}; expected {lowest:g} (lowest) to {highest:g} (highest)"
            )
        # The default must differ from the reference. In a run of one task no other task exists.
        self.primary = names.index(primary or next((name for name in names if name != reference), names[0]))
        other_names = [name for name in names if name != names[self.primary]]
        self.reference = names.index(reference or other_names[0]) if other_names else None
        self.lowest, self.highest = lowest, highest
        self.register_buffer("weight", torch.tensor(initial if other_names else 1.0))
        self.register_buffer("reference_loss", torch.tensor(0.0))  # 0: not observed yet
        self.weight: Tensor
        self.reference_loss: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return the weights (k,): the primary task's, and ones for the rest."""
        return torch.where(tasks == self.primary, self.weight, 1.0)

    def on_step(self, result: StepResult) -> None:
        """Multiply the weight by the ratio of the losses."""
        losses = dict(zip(result.tasks.tolist(), result.losses, strict=True))
        # Before the ratio, so that a step with both tasks compares losses of the same step.
        if self.reference in losses:
            # The ratio divides by this loss.
            self.reference_loss.copy_(losses[self.reference].clamp_min(EPSILON))
        if self.primary in losses and self.reference_loss > 0:
            ratio = losses[self.primary] / self.reference_loss
            self.weight.copy_((ratio * self.weight).clamp(self.lowest, self.highest))
