"""The step engine: one task's graph at a time, rows of unweighted gradients, Gram matrix, weights, one combination.

    for each task of the step, its graph freed before the next:
        l_t = mean over its rows, all micro-batches together; row t = gradient of l_t on the shared parameters
    objectives = balancer(losses);  w = d sum(objectives) / d losses, times the weight of the task's visit
    c = gradient regularizer(Gram matrix of w_t row_t);  gradient = sum_t c_t w_t row_t
    regularizers of the weights add their pull

Where the weights are known before the losses and nothing reads the rows, the backward passes add w_t * gradient in
place: the same numbers without the buffer.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import HiddenStates
from mtlcli.balancers.base import Balancer, BatchLosses
from mtlcli.data.batches import Batch
from mtlcli.errors import MtlError
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.model.frozen import Features
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.registry import plugin_call, require
from mtlcli.regularizers.base import Forward, Regularizer
from mtlcli.training.rng import random_states, replayed

COLUMNS = 65536
"""Columns of the rows multiplied at a time: float32 within, float64 across, which keeps the Gram matrix exact to 1e-6."""


@dataclass(frozen=True)
class TaskLoss:
    """One task of a step: its micro-batches, whose mean is one loss, and the weight of its visit (`Visit.weight`)."""

    task: int
    batches: tuple[Batch, ...]
    weight: float = 1.0

    @property
    def count(self) -> int:
        """Rows in all micro-batches."""
        return sum(batch.count for batch in self.batches)


@dataclass(frozen=True)
class Combined:
    """What a step's gradients were made of: tasks (k,), losses (k,) without and totals (k,) with regularizers, objectives (k,),
    weights (k,) of the balancer alone, coefficients (k,) of the gradient regularizer (their mean over blocks, where it works by
    blocks), gram (k, k) of the unweighted rows or None."""

    tasks: Tensor
    losses: Tensor
    totals: Tensor
    objectives: Tensor
    weights: Tensor
    coefficients: Tensor
    gram: Tensor | None


class StepEngine:
    """Computes the gradient of one step into `.grad` of every parameter that the step's tasks touch; None elsewhere.

    The flat buffer of rows, `max_tasks` x (shared parameters) float32, is made at the first step that needs it. `features` by task
    take the place of the encoder for training batches.
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
        self.device = next(model.parameters()).device
        self.layers = blocks(model, "layer")
        granularity = "whole" if gradient_regularizer is None else gradient_regularizer.granularity
        self.blocks = [] if granularity == "whole" else blocks(model, granularity)
        self.rows: Tensor | None = None
        self.features: Mapping[int, Features] = {}
        self._views: list[list[Tensor]] = []
        self._row: int | None = None
        self._touched: set[int] = set()
        self._states: list[list[tuple[list[Tensor], dict[str, Tensor]]]] = []
        for index, parameter in enumerate(self.shared):
            parameter.register_post_accumulate_grad_hook(self._keeper(index))

    @property
    def keeps_rows(self) -> bool:
        """Whether every step needs the rows, whatever the balancer knows."""
        return self.gradient_regularizer is not None or bool(self.balancer.needs & {"gram", "last-layer-gram"})

    def needs_rows(self) -> bool:
        """Whether steps of this run fill the buffer of rows."""
        probe = torch.arange(len(self.model.names), device=self.device)
        return self.keeps_rows or not self.balancer.weighs_heads or self._known_weights(probe) is None

    def _known_weights(self, tasks: Tensor) -> Tensor | None:
        """Return the balancer's weights (k,) known before the losses, or None."""
        with plugin_call(self.balancer, "known_weights", f"weights ({len(tasks)},), detached, or None"):
            weights = self.balancer.known_weights(tasks)
            if weights is not None:
                _require_shape(weights, (len(tasks),))
        return weights

    def buffer_bytes(self) -> int:
        """Memory that the rows take, 0 where they are not needed."""
        return 4 * self.size * self.max_tasks if self.needs_rows() else 0

    def run(self, step: Sequence[TaskLoss]) -> Combined:
        """Fills the gradients of one step. The parameters' old gradients are dropped first."""
        for parameter in [*self.shared, *(p for own in self.private for p in own), *self.learned]:
            parameter.grad = None
        tasks = torch.tensor([one.task for one in step], device=self.device)
        self._states = []
        known = self._known_weights(tasks) if self.balancer.weighs_heads and not self.keeps_rows else None
        combined = self._combine(step, tasks) if known is None else self._accumulate(step, tasks, known)
        for regularizer in self.regularizers:
            with plugin_call(regularizer, "after_backward", "gradients added to parameters that have one"):
                regularizer.after_backward(self.model)
        return combined

    @torch.no_grad()
    def losses_after(self, step: Sequence[TaskLoss]) -> Tensor:
        """The mean losses (k,) of the step that was just run with the weights as they are now, and its dropout masks."""
        found = []
        for one, states in zip(step, self._states, strict=True):
            total = torch.zeros((), device=self.device)
            for batch, (state, history) in zip(one.batches, states, strict=True):
                head = self.model.head(one.task)
                with replayed(state, batch.tokens.device), self.autocast, _with_buffers(head, history):
                    output = self.model.output(one.task, batch.sides, self._hidden(one.task, batch), batch.mask)
                    total += self.model.losses(one.task, output, batch).sum()
            found.append(total / one.count)
        return torch.stack(found)

    def _accumulate(self, step: Sequence[TaskLoss], tasks: Tensor, known: Tensor) -> Combined:
        """Weights known beforehand, nothing reads the rows: the backward passes add up the combination themselves."""
        factors = known * self._visit_weights(step)
        passes = [self._backward(one, factor) for one, factor in zip(step, factors, strict=True)]
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
        regularizer, needs = self.gradient_regularizer, self.balancer.needs
        gram = gram_matrix(rows).cpu() if regularizer is not None or "gram" in needs else None
        own = self._last_layer_gram(rows) if "last-layer-gram" in needs else gram
        objectives, weights = self._balance(totals, tasks, own)
        visit_weights = self._visit_weights(step)
        factors, coefficients = weights * visit_weights, torch.ones_like(weights)
        if regularizer is None or gram is None or not self.shared:
            combine_rows(rows, factors.tolist())
        else:
            coefficients = self._regularize(regularizer, rows, factors, gram, tasks.cpu())
        for index in touched:
            self.shared[index].grad = self._views[0][index]
        for factor, one in zip(factors if self.balancer.weighs_heads else visit_weights, step, strict=True):
            for parameter in self.private[one.task]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        return Combined(tasks, losses, totals, objectives, weights, coefficients, gram)

    def _visit_weights(self, step: Sequence[TaskLoss]) -> Tensor:
        """Return the factor (k,) of each task from its visit, applied after the balancer and before the gradient regularizer.

        A method whose scale is the mean divides by the k tasks of the step. Draws are already a mean (their weights sum to
        1), so dividing again would shrink the steps that hold many tasks, which are those that hold the rare ones. For each of
        these methods the weights are therefore rescaled to a mean of 1, which leaves weights of 1 as they are.
        """
        weights = torch.tensor([one.weight for one in step], device=self.device)
        regularizer = self.gradient_regularizer
        means = int(self.balancer.native_scale == "mean")
        if regularizer is not None:
            scale = regularizer.native_scale if regularizer.scale == "native" else regularizer.scale
            means += scale == "mean"
        return weights * (len(step) / weights.sum()) ** means

    def _regularize(
        self, regularizer: GradientRegularizer, rows: Tensor, weights: Tensor, gram: Tensor, tasks: Tensor
    ) -> Tensor:
        """Leaves the combination of the weighted rows in row 0 -> coefficients (k,)."""
        by_weight = weights.cpu().double()
        outer = torch.outer(by_weight, by_weight)
        gram = gram * outer
        if not bool(torch.isfinite(gram).all()):  # the step will be refused, and must not enter the method's history
            combine_rows(rows, by_weight.tolist())
            return torch.ones_like(weights)
        if regularizer.reads_rows:
            rows.mul_(weights.unsqueeze(1))
            with plugin_call(
                regularizer, "combine", f"the combined gradient ({rows.shape[1]},) from rows {tuple(rows.shape)}"
            ):
                combined = regularizer.combine(rows, gram, tasks)
                _require_shape(combined, rows.shape[1:])
            rows[0].copy_(combined).mul_(regularizer.scaling(len(tasks)))
            return torch.ones_like(weights)
        if not self.blocks:
            with plugin_call(regularizer, "weights", f"weights ({len(tasks)},) from a Gram matrix {tuple(gram.shape)}"):
                found = regularizer.weights(gram, tasks)
                _require_shape(found, (len(tasks),))
            found = (found * regularizer.scaling(len(tasks), found)).to(weights)
            combine_rows(rows, (found * weights).tolist())
            return found
        grams = torch.stack([gram_matrix(rows[:, columns]) for _, columns in self.blocks]).cpu()
        expected = (len(self.blocks), len(tasks))
        with plugin_call(regularizer, "block_weights", f"weights {expected} from Gram matrices {tuple(grams.shape)}"):
            each = regularizer.block_weights(grams * outer, tasks)
            _require_shape(each, expected)
        each = torch.stack([found * regularizer.scaling(len(tasks), found) for found in each])
        for (_, columns), found in zip(self.blocks, each * by_weight, strict=True):
            combine_rows(rows[:, columns], found.tolist())
        return each.mean(0).to(weights)

    def _last_layer_gram(self, rows: Tensor) -> Tensor:
        """Inner products of the unweighted gradients on the last shared layer that every task of the step reaches, or where
        there is none, that any of them reaches (k, k)."""
        found = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for _, columns in reversed(self.layers):
            gram = gram_matrix(rows[:, columns]).cpu()
            if bool(gram.diagonal().all()):
                return gram
            if not bool(found.any()):
                found = gram
        return found

    def _backward(self, one: TaskLoss, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Forward and backward of all micro-batches of a task -> its mean loss, without and with regularizers."""
        count = one.count
        loss_sum = total_sum = torch.zeros((), device=self.device)
        again = "losses-after" in self.balancer.needs
        if again:
            self._states.append([])
        for batch in one.batches:
            states = random_states(batch.tokens.device) if again or self.regularizers else []
            head = self.model.head(one.task)
            if again:
                self._states[-1].append((states, {name: value.clone() for name, value in head.named_buffers()}))
            with self.autocast:
                hidden = self._hidden(one.task, batch)
                output = self.model.output(one.task, batch.sides, hidden, batch.mask)
                losses = self.model.losses(one.task, output, batch)
                loss = losses.sum() / count
                total = self._mixed(one.task, batch, output, losses).sum() / count
                if self.regularizers:
                    added = regularization(self.model, one.task, batch, hidden, output, states, self.regularizers)
                    total = total + batch.count / count * added
            if not total.requires_grad:
                raise MtlError(
                    f"{self.model.names[one.task]}: nothing that its loss depends on learns: freeze less, give it a head that "
                    "learns, or leave it out"
                )
            (total if weight is None else total * weight).backward()
            if batch.targets is not None:
                head.observe(output.detach(), batch.targets)
            loss_sum, total_sum = loss_sum + loss.detach(), total_sum + total.detach()
        return loss_sum, total_sum

    def _hidden(self, task: int, batch: Batch) -> HiddenStates:
        kept = self.features.get(task)
        return self.model.hidden(task, self.model.inputs(task, batch)) if kept is None else kept.hidden(batch)

    def _mixed(self, task: int, batch: Batch, output: Tensor, losses: Tensor) -> Tensor:
        """The losses (n,) that the balancer puts in the place of the batch's own."""
        head = self.model.head(task)
        with plugin_call(self.balancer, "batch_losses", f"losses {tuple(losses.shape)} with their graph"):
            mixed = self.balancer.batch_losses(
                BatchLosses(task, batch.rows, losses, lambda targets: head.loss(output, targets).float())
            )
            _require_shape(mixed, losses.shape)
        return mixed

    def _balance(self, totals: Tensor, tasks: Tensor, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Objectives (k,) and weights (k,) = d sum(objectives) / d losses; fills the gradients of what the balancer learns."""
        losses = totals.detach().requires_grad_()
        k = len(losses)
        with plugin_call(
            self.balancer, "forward", f"objectives ({k},) that depend on the losses ({k},) of the step's tasks"
        ):
            objectives = self.balancer(losses, tasks)
            _require_shape(objectives, losses.shape)
            require(objectives.requires_grad, "returned objectives that depend on neither the losses nor a parameter")
            weights, *own = torch.autograd.grad(objectives.sum(), [losses, *self.learned], allow_unused=True)
        if gram is not None:
            with plugin_call(
                self.balancer, "own_objective", "one number that depends on the balancer's parameters, or None"
            ):
                aim = self.balancer.own_objective(losses.detach(), tasks, gram.to(losses))
                if aim is not None:
                    _require_shape(aim, ())
                    own = list(torch.autograd.grad(aim, self.learned, allow_unused=True))
        for parameter, gradient in zip(self.learned, own, strict=True):
            parameter.grad = gradient
        return objectives.detach(), torch.zeros_like(losses) if weights is None else weights

    def _buffer(self) -> Tensor:
        if self.rows is None:
            self.rows = torch.empty(self.max_tasks, self.size, device=self.device, dtype=torch.float32)
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


def _require_shape(value: object, shape: Sequence[int]) -> None:
    """Require a tensor of this shape, inside a `plugin_call`."""
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    require(found == tuple(shape), f"returned {found}")


@contextmanager
def _with_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the module's buffers are these; afterwards they are as they were."""
    now = {name: value.clone() for name, value in module.named_buffers()}
    try:
        for name, value in module.named_buffers():
            value.copy_(buffers[name])
        yield
    finally:
        for name, value in module.named_buffers():
            value.copy_(now[name])


def blocks(model: MultiTaskModel, granularity: str) -> list[tuple[str, slice]]:
    """The shared parameters in blocks, each a name and its columns of the rows: every `tensor`, or every `layer`, which is
    what stands below one number in the parameters' names, or below one top module of the encoder."""
    found: list[tuple[str, slice]] = []
    end = 0
    for name, parameter in model.named_shared_parameters():
        start, end = end, end + parameter.numel()
        block = name if granularity == "tensor" else _layer_of(name)
        if found and found[-1][0] == block:
            start = found.pop()[1].start
        found.append((block, slice(start, end)))
    return found


def _layer_of(name: str) -> str:
    parts = name.split(".")
    number = next((at for at, part in enumerate(parts) if part.isdigit()), 2)
    return ".".join(parts[: number + 1])


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


def regularization(
    model: MultiTaskModel, task: int, batch: Batch, hidden: HiddenStates, output: Tensor, states: list[Tensor],
    regularizers: Sequence[Regularizer],
) -> Tensor | float:  # fmt: skip
    """What the regularizers add to the mean loss of a batch; 0.0 without any. `states` are the random states before the
    pass that gave `hidden` and `output`."""

    def rerun(embeddings: Tensor | None = None, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        with replayed(states, batch.tokens.device):
            if weights is None:
                return model(task, batch, embeddings)
            return torch.func.functional_call(model, dict(weights), (task, batch, embeddings))

    head = model.head(task)
    compare = symmetric_kl if head.facts.task.labels is not None else squared_difference
    forward = Forward(
        model, task, batch, output,
        lambda: model.pooled(task, hidden, batch.mask), rerun, lambda: model.word_embeddings(task, batch.tokens),
        lambda a, b: compare(head.predicted(a), head.predicted(b)),
    )  # fmt: skip
    added = []
    for regularizer in regularizers:
        with plugin_call(regularizer, "forward", "one number with its graph, or None"):
            value = regularizer(forward)
            if value is not None:
                _require_shape(value, ())
                added.append(value)
    return torch.stack(added).sum() if added else 0.0


def symmetric_kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(P || Q) + KL(Q || P) of the softmax of two logits (n, classes) -> (n,) (SMART, section 3.1)."""
    p, q = torch.log_softmax(a.float(), -1), torch.log_softmax(b.float(), -1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1)


def squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """(a - b)^2 of two scores (n,) -> (n,) (SMART, section 3.1)."""
    return (a.float() - b.float()) ** 2
