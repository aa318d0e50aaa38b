"""The step engine: one task's graph at a time, rows of unweighted gradients, Gram matrix, weights, one combination.

    for each task of the step, its graph freed before the next:
        l_t = mean over its rows, all micro-batches together; row t = gradient of l_t on the shared parameters
    objectives = balancer(losses);  w = d sum(objectives) / d losses
    c = gradient regularizer(Gram matrix of w_t row_t);  gradient = sum_t c_t w_t row_t

Where the weights are known before the losses and nothing reads the rows, the backward passes add w_t * gradient in
place: the same numbers without the buffer.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.data.batching import Batch
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.model import MultiTaskModel
from mtlcli.regularizers.base import Regularizer

COLUMNS = 65536
"""Columns of the rows multiplied at a time: float32 within, float64 across, which keeps the Gram matrix exact to 1e-6."""


@dataclass(frozen=True)
class TaskLoss:
    """One task of a step: its micro-batches, and after the pass its mean loss before balancing."""

    task: int
    batches: tuple[Batch, ...]

    @property
    def count(self) -> int:
        """Rows in all micro-batches."""
        return sum(batch.count for batch in self.batches)


@dataclass(frozen=True)
class Combined:
    """What a step's gradients were made of: tasks (k,), losses (k,) without and totals (k,) with regularizers, objectives (k,),
    weights (k,) of the balancer, coefficients (k,) of the gradient regularizer, gram (k, k) of the unweighted rows or None."""

    tasks: Tensor
    losses: Tensor
    totals: Tensor
    objectives: Tensor
    weights: Tensor
    coefficients: Tensor
    gram: Tensor | None


class StepEngine:
    """Computes the gradient of one step into `.grad` of every parameter that the step's tasks touch; None elsewhere.

    The flat buffer of rows, `max_tasks` x (shared parameters) float32, is made at the first step that needs it.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        balancer: Balancer,
        gradient_regularizer: GradientRegularizer | None,
        regularizers: Sequence[Regularizer],
        *,
        max_tasks: int,
        autocast: AbstractContextManager[object],
    ) -> None:
        self.model, self.balancer = model, balancer
        self.gradient_regularizer, self.regularizers = gradient_regularizer, regularizers
        self.max_tasks, self.autocast = max_tasks, autocast
        self.shared = model.shared_parameters()
        self.private = [model.private_parameters(task) for task in range(len(model.names))]
        self.learned = [p for p in balancer.parameters() if p.requires_grad]
        self.size = sum(parameter.numel() for parameter in self.shared)
        self.rows: Tensor | None = None
        self._views: list[list[Tensor]] = []
        self._row: int | None = None
        self._touched: set[int] = set()
        for index, parameter in enumerate(self.shared):
            parameter.register_post_accumulate_grad_hook(self._keeper(index))

    @property
    def keeps_rows(self) -> bool:
        """Whether every step needs the rows, whatever the balancer knows."""
        return self.gradient_regularizer is not None or "gram" in self.balancer.needs

    def needs_rows(self) -> bool:
        """Whether steps of this run fill the buffer of rows."""
        probe = torch.arange(len(self.model.names), device=self.shared[0].device if self.shared else None)
        return self.keeps_rows or not self.balancer.weighs_heads or self.balancer.known_weights(probe) is None

    def buffer_bytes(self) -> int:
        """Memory that the rows take, 0 where they are not needed."""
        return 4 * self.size * self.max_tasks if self.needs_rows() else 0

    def run(self, step: Sequence[TaskLoss]) -> Combined:
        """Fills the gradients of one step. The parameters' old gradients are dropped first."""
        for parameter in [*self.shared, *(p for own in self.private for p in own), *self.learned]:
            parameter.grad = None
        tasks = torch.tensor([one.task for one in step], device=self.shared[0].device)
        known = self.balancer.known_weights(tasks) if self.balancer.weighs_heads and not self.keeps_rows else None
        if known is not None:
            return self._accumulate(step, tasks, known)
        return self._combine(step, tasks)

    def _accumulate(self, step: Sequence[TaskLoss], tasks: Tensor, known: Tensor) -> Combined:
        """Weights known beforehand, nothing reads the rows: the backward passes add up the combination themselves."""
        passes = [self._backward(one, known[index]) for index, one in enumerate(step)]
        losses, totals = torch.stack([loss for loss, _ in passes]), torch.stack([total for _, total in passes])
        objectives, weights = self._balance(totals, tasks)
        return Combined(tasks, losses, totals, objectives, weights, torch.ones_like(weights), None)

    def _combine(self, step: Sequence[TaskLoss], tasks: Tensor) -> Combined:
        """Rows first, then the balancer on their losses, then the gradient regularizer on their Gram matrix."""
        rows = self._buffer()[: len(step)]
        passes, touched = [], set()
        for index, one in enumerate(step):
            self._row, self._touched = index, set()
            try:
                passes.append(self._backward(one, None))
            finally:
                self._row = None
            touched |= self._touched
            for absent in set(range(len(self.shared))) - self._touched:
                self._views[index][absent].zero_()
        losses, totals = torch.stack([loss for loss, _ in passes]), torch.stack([total for _, total in passes])
        objectives, weights = self._balance(totals, tasks)
        gram = gram_matrix(rows).cpu() if self.keeps_rows else None
        coefficients = torch.ones_like(weights)
        regularizer = self.gradient_regularizer
        if regularizer is not None and gram is not None:
            by_weight = weights.cpu().double()
            weighted, scaling = gram * torch.outer(by_weight, by_weight), regularizer.scaling(len(step))
            if regularizer.reads_rows:
                rows.mul_(weights.unsqueeze(1))
                rows[0].copy_(regularizer.combine(rows, weighted, tasks.cpu()) * scaling)
            else:
                coefficients = (regularizer.weights(weighted, tasks.cpu()) * scaling).to(weights)
        if regularizer is None or not regularizer.reads_rows:
            combine_rows(rows, (coefficients * weights).tolist())
        for index in touched:
            self.shared[index].grad = self._views[0][index]
        if self.balancer.weighs_heads:
            for weight, one in zip(weights, step, strict=True):
                for parameter in self.private[one.task]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(weight)
        return Combined(tasks, losses, totals, objectives, weights, coefficients, gram)

    def _backward(self, one: TaskLoss, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forward and backward of all micro-batches of a task -> its mean loss, without and with regularizers."""
        count = one.count
        loss_sum = total_sum = torch.zeros((), device=self.shared[0].device)
        for batch in one.batches:
            with self.autocast:
                output = self.model(one.task, batch)
                losses = self.model.losses(one.task, output, batch)
                loss = losses.sum() / count
                share = batch.count / count
                total = loss + share * self.model.regularization(one.task, batch, output, self.regularizers)
            (total if weight is None else total * weight).backward()
            loss_sum, total_sum = loss_sum + loss.detach(), total_sum + total.detach()
        return loss_sum, total_sum

    def _balance(self, totals: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """Objectives (k,) and weights (k,) = d sum(objectives) / d losses; fills the gradients of what the balancer learns."""
        losses = totals.detach().requires_grad_()
        objectives = self.balancer(losses, tasks)
        weights, *own = torch.autograd.grad(objectives.sum(), [losses, *self.learned], allow_unused=True)
        for parameter, gradient in zip(self.learned, own, strict=True):
            parameter.grad = gradient
        return objectives.detach(), torch.zeros_like(losses) if weights is None else weights

    def _buffer(self) -> Tensor:
        if self.rows is None:
            first = self.shared[0]
            self.rows = torch.empty(self.max_tasks, self.size, device=first.device, dtype=torch.float32)
            sizes = [parameter.numel() for parameter in self.shared]
            self._views = [
                [part.view_as(parameter) for part, parameter in zip(row.split(sizes), self.shared, strict=True)]
                for row in self.rows
            ]
        return self.rows

    def _keeper(self, index: int):  # type: ignore[no-untyped-def]
        """Moves a fresh gradient into its row as soon as it is made, so that it is never held twice."""

        def keep(parameter: nn.Parameter) -> None:
            if self._row is None or parameter.grad is None:
                return
            view = self._views[self._row][index]
            if index in self._touched:
                view.add_(parameter.grad)
            else:
                view.copy_(parameter.grad)
                self._touched.add(index)
            parameter.grad = None

        return keep


def gram_matrix(rows: Tensor) -> Tensor:
    """rows (k, P) float32 -> inner products (k, k) float64, exact to about 1e-6 of the norms."""
    k, size = rows.shape
    whole = size // COLUMNS
    blocks = rows[:, : whole * COLUMNS].view(k, whole, COLUMNS).transpose(0, 1)
    gram = torch.bmm(blocks, blocks.transpose(1, 2)).sum(0, dtype=torch.float64)
    rest = rows[:, whole * COLUMNS :]
    return gram + (rest @ rest.T).double()


def combine_rows(rows: Tensor, weights: Sequence[float]) -> None:
    """Overwrites row 0 with sum_t weights[t] * row t, without another buffer."""
    rows[0].mul_(weights[0])
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        rows[0].add_(row, alpha=weight)
