"""Tchebycheff loss: Mao et al., ACL 2020 (as described by Chen, Zhang and Yang, 2024, section 3.1).

The smooth form is that of Lin et al., ICML 2024, arXiv:2402.19078.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import EpochResult, EvaluationResult

EPSILON = 1e-8
"""Smallest reference loss; 0 marks a reference that is not known yet."""


class Tchebycheff(Balancer):
    """Minimize the largest weighted loss, so that only the worst task moves the encoder.

    The objective is ``max_t lambda_t L_t`` with ``lambda_t = 1 / (l_t sum_i 1 / l_i)``, the sum over the tasks of the step,
    where l_t is a reference loss: the mean of the last epoch, or that of the last evaluation on dev. A task without a dev
    loss uses the mean of its last epoch. If a task of the step has no reference at all, as in the first epoch, every task
    has weight 1 / k.

    `smooth` = mu replaces the maximum by ``mu logsumexp(lambda_t L_t / mu)``. Heads are trained on their unweighted loss,
    because those of all tasks but the worst would stop learning otherwise.

    Differences from the survey: it can be read as using the loss of the current step for l_t. All lambda_t L_t would then
    be equal, and rounding would decide the maximum. The original paper was not available.

    Native scale: own. k equal tasks move the encoder by 1 / k of the gradient of one.
    """

    needs = frozenset({"several-tasks"})
    native_scale = "own"
    weighs_heads = False
    cost = "gradient rows"

    def __init__(
        self,
        run: RunFacts,
        *,
        reference: Annotated[
            Literal["epoch", "validation"],
            Field(description="l_t: mean training loss of the last epoch, or loss on dev"),
        ] = "epoch",
        smooth: Annotated[
            float | None, Field(gt=0, description="mu of the smooth maximum; null: the exact maximum")
        ] = None,
    ) -> None:
        super().__init__(run)
        self.kind, self.smooth = reference, smooth
        self.register_buffer("reference", torch.zeros(len(run.tasks)))  # 0: none yet
        # A buffer, so that after resuming, an epoch's mean does not replace a dev loss.
        self.register_buffer("is_dev_loss", torch.zeros(len(run.tasks), dtype=torch.bool))
        self.reference: Tensor
        self.is_dev_loss: Tensor

    def on_epoch(self, result: EpochResult) -> None:
        """Set the epoch's mean losses as references of the tasks that have no dev loss."""
        self._set_references({task: loss for task, loss in result.losses.items() if not self.is_dev_loss[task]})

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Set the losses on dev as references, if `reference` is validation."""
        if self.kind == "validation":
            # NaN where no dev row has a label that training saw: the epoch's mean stays the reference.
            losses = {task: loss for task, loss in result.losses.items() if math.isfinite(loss)}
            self._set_references(losses)
            for task in losses:
                self.is_dev_loss[task] = True

    def _set_references(self, losses: Mapping[int, float]) -> None:
        for task, loss in losses.items():
            self.reference[task] = max(loss, EPSILON)

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Return the objectives (k,) of losses (k,), means per row, of tasks (k,): zero but for the largest, or smooth shares."""
        reference = self.reference[tasks]
        # Relative losses cannot be compared with one that has no reference.
        if bool((reference <= 0).any()):
            return losses / len(losses)
        terms = losses / (reference * (1 / reference).sum())
        if self.smooth is not None:
            # The shares sum to 1: they only distribute the smooth maximum over the tasks, as the log shows it.
            return (
                self.smooth
                * torch.logsumexp(terms / self.smooth, dim=0)
                * torch.softmax(terms.detach() / self.smooth, 0)
            )
        # The maximum itself, written as objectives (k,) so that each task has a weight.
        return terms * torch.nn.functional.one_hot(terms.argmax(), len(terms))
