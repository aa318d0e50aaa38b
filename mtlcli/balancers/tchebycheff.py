"""Tchebycheff loss: Mao et al., ACL 2020, in the form of survey 3.1; smooth form: Lin et al., ICML 2024, arXiv:2402.19078."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import EpochResult, EvaluationResult

SMALLEST = 1e-8
"""What a reference of zero counts as: 0 stands for one that is not known yet."""


class Tchebycheff(Balancer):
    """Minimises max_t lambda_t L_t with lambda_t = 1 / (l_t sum_i 1 / l_i): only the worst task moves the encoder.

    l_t is a reference loss, the mean of the last epoch or that of the last evaluation on dev: with the loss of the step
    itself, as the survey can be read, all lambda_t L_t would be equal and the maximum would be rounding noise. The survey is
    the only source of this form; the paper's own text was not at hand. The sum is over the tasks of the step. With dev
    losses as reference, a task without one yet (or without dev rows) has the mean of its last epoch. Where a task of the
    step has no reference at all, as in the first epoch, every task counts 1 / k.

    `smooth` = mu replaces the maximum by mu logsumexp(lambda_t L_t / mu). Heads are trained on their own loss, else those of
    the other tasks would starve. Native scale: its own; k equal tasks move the encoder by 1 / k of the gradient of one.
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
            Literal["epoch", "validation"], Field(description="l_t: mean training loss of the last epoch, or dev loss")
        ] = "epoch",
        smooth: Annotated[float | None, Field(gt=0, description="mu of the smooth maximum; null: the hard one")] = None,
    ) -> None:
        super().__init__(run)
        self.kind, self.smooth = reference, smooth
        self.register_buffer("reference", torch.zeros(len(run.tasks)))  # 0: none yet
        self.register_buffer("judged", torch.zeros(len(run.tasks), dtype=torch.bool))
        self.reference: Tensor
        self.judged: Tensor

    def on_epoch(self, result: EpochResult) -> None:
        """Takes the epoch's mean losses as reference, where dev losses are not there or not asked for."""
        self._refer({task: loss for task, loss in result.losses.items() if not self.judged[task]})

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Takes the losses on dev as reference."""
        if self.kind == "validation":
            self._refer(result.losses)
            for task in result.losses:
                self.judged[task] = True

    def _refer(self, losses: Mapping[int, float]) -> None:
        for task, loss in losses.items():
            self.reference[task] = max(loss, SMALLEST)

    def forward(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """losses (k,) mean per row, tasks (k,) -> objectives (k,): all but the largest are zero, or their smooth shares."""
        reference = self.reference[tasks]
        if bool((reference <= 0).any()):
            return losses / len(losses)
        terms = losses / (reference * (1 / reference).sum())
        if self.smooth is not None:
            return (
                self.smooth
                * torch.logsumexp(terms / self.smooth, dim=0)
                * torch.softmax(terms.detach() / self.smooth, 0)
            )
        return terms * torch.nn.functional.one_hot(terms.argmax(), len(terms))
