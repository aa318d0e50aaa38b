"""The step engine: one task's graph at a time, a row of unweighted gradients per task, their Gram matrix and combination.

    for each task of the step, its graph freed before the next:
        l_t = sum of its losses (times row weights) / units of all micro-batches; row t = gradient of l_t on the shared parameters
    objectives = balancer(losses);  w = d sum(objectives) / d losses, times the weight of the task's visit
    c = gradient regularizer(Gram matrix of w_t row_t);  gradient = sum_t c_t w_t row_t
    regularizers of the weights add their gradient

If the weights are known before the losses and no method reads the rows, the backward passes add w_t * gradient in place: the
same numbers without the buffer.
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

COLUMNS = 8192
"""Columns multiplied at a time: float32 within a block, float64 across blocks, which keeps the Gram matrix exact to 1e-6."""


@dataclass(frozen=True)
class TaskLoss:
    """Hold one task of a step: the micro-batches of its loss, and the weight of its visit (`Visit.weight`)."""

    task: int
    batches: tuple[Batch, ...]
    weight: float = 1.0

    @property
    def count(self) -> int:
        """Count the rows of all micro-batches."""
        return sum(batch.count for batch in self.batches)

    @property
    def units(self) -> float:
        """Count the loss units of all micro-batches, by which their summed losses are divided; 1 if no label is known.

        Dividing each micro-batch by its own units instead would give short micro-batches too much weight.
        """
        return sum(batch.units for batch in self.batches) or 1.0


@dataclass(frozen=True)
class Combined:
    """Hold the parts of a step's gradient, for its k tasks.

    Attributes:
        tasks: indices (k,).
        losses: loss per unit (k,), without regularizers.
        totals: the same with regularizers (k,).
        objectives: of the balancer (k,).
        weights: of the balancer alone (k,).
        coefficients: of the gradient regularizer (k,); their mean over blocks if it works by blocks.
        gram: (k, k) of the unweighted rows, or None.
    """

    tasks: Tensor
    losses: Tensor
    totals: Tensor
    objectives: Tensor
    weights: Tensor
    coefficients: Tensor
    gram: Tensor | None


class StepEngine:
    """Compute the gradient of one step into `.grad` of every parameter that the step's tasks use; None elsewhere.

    The flat buffer of rows, `max_tasks` x (shared parameters) float32, is allocated at the first step that needs it.

    Attributes:
        features: by task, cached features that replace the encoder for training batches.
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
        # Hooks move each gradient into its row during the backward pass: storing all gradients first would double the memory.
        for index, parameter in enumerate(self.shared):
            parameter.register_post_accumulate_grad_hook(self._keeper(index))

    @property
    def keeps_rows(self) -> bool:
        """Return whether every step needs the rows, even if the weights are known beforehand."""
        return self.gradient_regularizer is not None or bool(self.balancer.needs & {"gram", "last-layer-gram"})

    def needs_rows(self) -> bool:
        """Return whether steps of this run fill the buffer of rows."""
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
        """Return the memory of the rows, 0 if they are not needed."""
        return 4 * self.size * self.max_tasks if self.needs_rows() else 0

    def run(self, step: Sequence[TaskLoss]) -> Combined:
        """Compute the gradients of one step, replacing those of the step before."""
        for parameter in [*self.shared, *(p for of_task in self.private for p in of_task), *self.learned]:
            parameter.grad = None
        tasks = torch.tensor([task_loss.task for task_loss in step], device=self.device)
        self._states = []
        # In place, one weight multiplies the whole backward pass of a task, its head included.
        in_place = self.balancer.weighs_heads and not self.keeps_rows
        weights = self._known_weights(tasks) if in_place else None
        combined = self._combine(step, tasks) if weights is None else self._accumulate(step, tasks, weights)
        for regularizer in self.regularizers:
            with plugin_call(regularizer, "after_backward", "gradients added to parameters that have one"):
                regularizer.after_backward(self.model)
        return combined

    @torch.no_grad()
    def losses_after(self, step: Sequence[TaskLoss]) -> Tensor:
        """Return the losses (k,) of the last step with the current weights and the dropout masks of that step."""
        losses = []
        for task_loss, states in zip(step, self._states, strict=True):
            task, total = task_loss.task, torch.zeros((), device=self.device)
            for batch, (state, history) in zip(task_loss.batches, states, strict=True):
                head = self.model.head(task)
                with replayed(state, batch.tokens.device), self.autocast, _with_buffers(head, history):
                    output = self.model.output(task, batch, self._hidden(task, batch))
                    total += _sum(self.model.losses(task, output, batch), batch)
            losses.append(total / task_loss.units)
        return torch.stack(losses)

    def _accumulate(self, step: Sequence[TaskLoss], tasks: Tensor, weights: Tensor) -> Combined:
        """Accumulate the weighted gradients in place during the backward passes, with weights known beforehand."""
        factors = weights * self._visit_weights(step)
        passes = [self._backward(task_loss, factor) for task_loss, factor in zip(step, factors, strict=True)]
        losses, totals = torch.stack([loss for loss, _ in passes]), torch.stack([total for _, total in passes])
        objectives, weights = self._balance(totals, tasks)
        return Combined(tasks, losses, totals, objectives, weights, torch.ones_like(weights), None)

    def _combine(self, step: Sequence[TaskLoss], tasks: Tensor) -> Combined:
        """Compute the rows, then the balancer's weights from their losses, then the coefficients from their Gram matrix."""
        rows = self._buffer()[: len(step)]
        passes, touched = [], set()
        for index, task_loss in enumerate(step):
            self._row, self._touched = index, set()
            try:
                passes.append(self._backward(task_loss, None))
            finally:
                self._row = None
            touched |= self._touched
            # The buffer is reused, so a parameter that this task does not use has a stale gradient in the row.
            for absent in set(range(len(self.shared))) - self._touched:
                self._views[index][absent].zero_()
        losses, totals = torch.stack([loss for loss, _ in passes]), torch.stack([total for _, total in passes])
        regularizer, needs = self.gradient_regularizer, self.balancer.needs
        gram = gram_matrix(rows).cpu() if regularizer is not None or "gram" in needs else None
        balancer_gram = self._last_layer_gram(rows) if "last-layer-gram" in needs else gram
        objectives, weights = self._balance(totals, tasks, balancer_gram)
        visit_weights = self._visit_weights(step)
        factors, coefficients = weights * visit_weights, torch.ones_like(weights)
        if regularizer is None or gram is None or not self.shared:
            combine_rows(rows, factors.tolist())
        else:
            coefficients = self._regularize(regularizer, rows, factors, gram, tasks.cpu())
        # A parameter that no task of the step uses keeps grad None, so that AdamW does not decay it.
        for index in touched:
            self.shared[index].grad = self._views[0][index]
        # Private parameters have one task's gradient only, so no method combines them.
        for factor, task_loss in zip(factors if self.balancer.weighs_heads else visit_weights, step, strict=True):
            for parameter in self.private[task_loss.task]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        return Combined(tasks, losses, totals, objectives, weights, coefficients, gram)

    def _visit_weights(self, step: Sequence[TaskLoss]) -> Tensor:
        """Return the factor (k,) of each task from its visit, applied after the balancer and before the gradient regularizer.

        A method whose scale is the mean divides by the k tasks of the step. Draws are already a mean (their weights sum to
        1), so dividing again would shrink steps with many tasks, which are those with the rare tasks. For each of these methods
        the weights are therefore rescaled to a mean of 1, which does not change weights of 1.
        """
        weights = torch.tensor([task_loss.weight for task_loss in step], device=self.device)
        regularizer = self.gradient_regularizer
        means = int(self.balancer.native_scale == "mean")
        if regularizer is not None:
            scale = regularizer.native_scale if regularizer.scale == "native" else regularizer.scale
            means += scale == "mean"
        return weights * (len(step) / weights.sum()) ** means

    def _regularize(
        self, regularizer: GradientRegularizer, rows: Tensor, weights: Tensor, gram: Tensor, tasks: Tensor
    ) -> Tensor:
        """Combine the weighted rows in row 0 and return the coefficients (k,)."""
        by_weight = weights.cpu().double()
        outer = torch.outer(by_weight, by_weight)
        gram = gram * outer
        # A step that is not finite will be skipped, so it must not enter the method's history.
        if not bool(torch.isfinite(gram).all()):
            combine_rows(rows, by_weight.tolist())
            return torch.ones_like(weights)
        if regularizer.reads_rows:
            # A method such as GradDrop works per element, which a Gram matrix cannot express.
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
                coefficients = regularizer.weights(gram, tasks)
                _require_shape(coefficients, (len(tasks),))
            coefficients = (coefficients * regularizer.scaling(len(tasks), coefficients)).to(weights)
            combine_rows(rows, (coefficients * weights).tolist())
            return coefficients
        grams = torch.stack([gram_matrix(rows[:, columns]) for _, columns in self.blocks]).cpu()
        expected = (len(self.blocks), len(tasks))
        with plugin_call(regularizer, "block_weights", f"weights {expected} from Gram matrices {tuple(grams.shape)}"):
            by_block = regularizer.block_weights(grams * outer, tasks)
            _require_shape(by_block, expected)
        by_block = torch.stack([of_block * regularizer.scaling(len(tasks), of_block) for of_block in by_block])
        for (_, columns), of_block in zip(self.blocks, by_block * by_weight, strict=True):
            combine_rows(rows[:, columns], of_block.tolist())
        return by_block.mean(0).to(weights)

    def _last_layer_gram(self, rows: Tensor) -> Tensor:
        """Return the Gram matrix (k, k) of the unweighted gradients on the last shared layer.

        That is the last layer that every task of the step uses; if there is none, the last layer that any task uses.
        """
        fallback = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for _, columns in reversed(self.layers):
            gram = gram_matrix(rows[:, columns]).cpu()
            if bool(gram.diagonal().all()):
                return gram
            if not bool(fallback.any()):
                fallback = gram
        return fallback

    def _backward(self, task_loss: TaskLoss, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run forward and backward passes of all micro-batches; return the loss per unit without and with regularizers."""
        task, count, units = task_loss.task, task_loss.count, task_loss.units
        loss_sum = total_sum = torch.zeros((), device=self.device)
        repeats = "losses-after" in self.balancer.needs
        if repeats:
            self._states.append([])
        for batch in task_loss.batches:
            # Recorded before the pass, so that dropout can draw the same masks again.
            states = random_states(batch.tokens.device) if repeats or self.regularizers else []
            head = self.model.head(task)
            if repeats:
                self._states[-1].append((states, {name: value.clone() for name, value in head.named_buffers()}))
            with self.autocast:
                hidden = self._hidden(task, batch)
                output = self.model.output(task, batch, hidden)
                losses = self.model.losses(task, output, batch)
                loss = _sum(losses, batch) / units
                total = _sum(self._mixed(task, batch, output, losses), batch) / units
                if self.regularizers:
                    added = regularization(self.model, task, batch, hidden, output, states, self.regularizers)
                    # A regularizer returns a mean per row, so micro-batches are weighted by their rows.
                    total = total + batch.count / count * added
            if not total.requires_grad:
                raise MtlError(
                    f"{self.model.names[task]}: no trainable parameter affects its loss; freeze less, use a head with parameters, "
                    "or remove the task"
                )
            (total if weight is None else total * weight).backward()
            # After the backward pass, because updating a buffer could invalidate the graph.
            if batch.gold is not None:
                head.observe(output.detach(), batch.gold)
            loss_sum, total_sum = loss_sum + loss.detach(), total_sum + total.detach()
        return loss_sum, total_sum

    def _hidden(self, task: int, batch: Batch) -> HiddenStates:
        features = self.features.get(task)
        return self.model.hidden(task, self.model.inputs(task, batch)) if features is None else features.hidden(batch)

    def _mixed(self, task: int, batch: Batch, output: Tensor, losses: Tensor) -> Tensor:
        """Return the losses (n,) of a batch after `Balancer.batch_losses`, which may replace them."""
        head = self.model.head(task)
        with plugin_call(self.balancer, "batch_losses", f"losses {tuple(losses.shape)} with their graph"):
            mixed = self.balancer.batch_losses(
                BatchLosses(task, batch.rows, losses, lambda gold: head.loss(output, gold).float())
            )
            _require_shape(mixed, losses.shape)
        return mixed

    def _balance(self, totals: Tensor, tasks: Tensor, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return objectives (k,) and weights (k,) = d sum(objectives) / d losses; set the gradients of the balancer's parameters."""
        # Detached leaves: the balancer's graph ends at the losses, because the tasks' graphs are already freed.
        losses = totals.detach().requires_grad_()
        k = len(losses)
        with plugin_call(
            self.balancer, "forward", f"objectives ({k},) that depend on the losses ({k},) of the step's tasks"
        ):
            objectives = self.balancer(losses, tasks)
            _require_shape(objectives, losses.shape)
            require(objectives.requires_grad, "returned objectives that depend on neither the losses nor a parameter")
            weights, *gradients = torch.autograd.grad(objectives.sum(), [losses, *self.learned], allow_unused=True)
        if gram is not None:
            with plugin_call(
                self.balancer, "own_objective", "one number that depends on the balancer's parameters, or None"
            ):
                aim = self.balancer.own_objective(losses.detach(), tasks, gram.to(losses))
                if aim is not None:
                    _require_shape(aim, ())
                    gradients = list(torch.autograd.grad(aim, self.learned, allow_unused=True))
        for parameter, gradient in zip(self.learned, gradients, strict=True):
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
        """Return a hook that moves a gradient into its row as soon as it is computed, so that it is never stored twice."""

        def keep(parameter: nn.Parameter) -> None:
            if self._row is None or parameter.grad is None:
                return
            # The first micro-batch overwrites the gradient of an earlier step; the others add to it.
            view = self._views[self._row][index]
            if index in self._touched:
                view.add_(parameter.grad)
            else:
                view.copy_(parameter.grad)
                self._touched.add(index)
            parameter.grad = None

        return keep


def _sum(losses: Tensor, batch: Batch) -> Tensor:
    """Return the sum of the losses (n,) of a batch's rows, each times the row's weight."""
    return losses.sum() if batch.weights is None else (losses * batch.weights).sum()


def _require_shape(value: object, shape: Sequence[int]) -> None:
    """Require a tensor of this shape, inside a `plugin_call`."""
    actual = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    require(actual == tuple(shape), f"returned {actual}")


@contextmanager
def _with_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace the module's buffers, and restore them afterwards."""
    before = {name: value.clone() for name, value in module.named_buffers()}
    try:
        for name, value in module.named_buffers():
            value.copy_(buffers[name])
        yield
    finally:
        for name, value in module.named_buffers():
            value.copy_(before[name])


def blocks(model: MultiTaskModel, granularity: str) -> list[tuple[str, slice]]:
    """Return the blocks of shared parameters as (name, columns of the rows).

    A block is a `tensor` or a `layer`. A layer holds the parameters whose names share a prefix up to the first number
    (`encoder.layer.3`), or up to the third part if they have no number.
    """
    parts: list[tuple[str, slice]] = []
    end = 0
    for name, parameter in model.named_shared_parameters():
        start, end = end, end + parameter.numel()
        block = name if granularity == "tensor" else _layer_of(name)
        if parts and parts[-1][0] == block:
            start = parts.pop()[1].start
        parts.append((block, slice(start, end)))
    return parts


def _layer_of(name: str) -> str:
    parts = name.split(".")
    number = next((position for position, part in enumerate(parts) if part.isdigit()), 2)
    return ".".join(parts[: number + 1])


def gram_matrix(rows: Tensor) -> Tensor:
    """Return the inner products (k, k) float64 of rows (k, P) float32, exact to about 1e-6 of the norms."""
    k, size = rows.shape
    full = size // COLUMNS
    blocks = rows[:, : full * COLUMNS].view(k, full, COLUMNS).transpose(0, 1)
    gram = torch.bmm(blocks, blocks.transpose(1, 2)).sum(0, dtype=torch.float64)
    rest = rows[:, full * COLUMNS :]
    return gram + (rest @ rest.T).double()


def combine_rows(rows: Tensor, weights: Sequence[float]) -> None:
    """Replace row 0 by sum_t weights[t] * row t, without another buffer."""
    rows[0].mul_(weights[0])
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        rows[0].add_(row, alpha=weight)


def regularization(
    model: MultiTaskModel, task: int, batch: Batch, hidden: HiddenStates, output: Tensor, states: list[Tensor],
    regularizers: Sequence[Regularizer],
) -> Tensor | float:  # fmt: skip
    """Return the sum of the regularizers' terms, added to the mean loss of a batch; 0.0 without regularizers.

    `states` are the random states before the pass that computed `hidden` and `output`, so that a regularizer can repeat it
    with the same dropout masks.
    """

    def rerun(embeddings: Tensor | None = None, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        with replayed(states, batch.tokens.device):
            if weights is None:
                return model(task, batch, embeddings)
            return torch.func.functional_call(model, dict(weights), (task, batch, embeddings))

    head = model.head(task)
    target = head.facts.task.target
    forward = Forward(
        model, task, batch, output,
        lambda: model.pooled(task, hidden, batch.mask), rerun, lambda: model.word_embeddings(task, batch.tokens),
        lambda a, b: target.divergence(head.predicted(a), head.predicted(b)),
        lambda a: target.logits(head.predicted(a)),
    )  # fmt: skip
    added = []
    for regularizer in regularizers:
        with plugin_call(regularizer, "forward", "one number with its graph, or None"):
            value = regularizer(forward)
            if value is not None:
                _require_shape(value, ())
                added.append(value)
    return torch.stack(added).sum() if added else 0.0
