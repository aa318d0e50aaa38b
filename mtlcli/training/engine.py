"""The step engine: one task's graph at a time, a row of unweighted gradients per task, their Gram matrix and combination.

    for each task of the step, its graph freed before the next (tasks with the same rows share one pass of the encoder):
        l_t = sum of its losses (times row weights) / units of all micro-batches; row t = gradient of l_t on the shared parameters
        (those apart come last in a row: no method compares or changes them)
    objectives = balancer(losses);  w = d sum(objectives) / d losses, times the weight of the task's visit
    c = gradient regularizer(Gram matrix of w_t row_t);  gradient = sum_t c_t w_t row_t
    regularizers of the weights add their gradient

If the weights are known before the losses and no method reads the rows, the backward passes add w_t * gradient in place: the
same numbers without the buffer.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mtlcli.balancers.base import Balancer
from mtlcli.distributed.launch import Launch
from mtlcli.distributed.sharding import divided_like, is_divided, local
from mtlcli.distributed.world import World
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.registry import plugin_call, require
from mtlcli.regularizers.base import Regularizer
from mtlcli.training.exchange import Exchange
from mtlcli.training.forward import ForwardPasses, require_shape
from mtlcli.training.gradient_rows import blocks, combine_rows, gram_matrix
from mtlcli.training.passes import Pass, TaskLoss


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
        passes: the forward passes, with cached features of a frozen encoder.
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
        world: World | None = None,
    ) -> None:
        self.world = World(Launch()) if world is None else world
        self.model, self.balancer = model, balancer
        self.gradient_regularizer, self.regularizers = gradient_regularizer, regularizers
        self.max_tasks = max_tasks
        self.passes = ForwardPasses(model, balancer, regularizers, autocast)
        compared, apart = model.shared_parameters(), model.apart_parameters()
        # The columns of a row have this order, so a slice separates what methods compare from what is apart.
        self.shared = [*compared, *apart]
        self.private = [model.private_parameters(task) for task in range(len(model.names))]
        self.learned = [p for p in balancer.parameters() if p.requires_grad]
        # If the encoder is divided, each process holds a part of every row.
        self.is_sharded = any(map(is_divided, self.shared))
        self.size = sum(local(parameter).numel() for parameter in self.shared)
        self.compared = slice(sum(local(parameter).numel() for parameter in compared))
        self.device = next(model.parameters()).device
        self.layers = blocks(model, "layer")
        granularity = "whole" if gradient_regularizer is None else gradient_regularizer.granularity
        self.blocks = [] if granularity == "whole" else blocks(model, granularity)
        self.rows: Tensor | None = None
        self._views: list[list[Tensor]] = []
        self._row: int | None = None
        self._touched: list[set[int]] = []
        # The number of complete rows, and for each task the number of micro-batches that remain.
        self._complete, self._missing = 0, list[int]()
        self.exchange = (
            None if self.world.is_alone else Exchange(self.world, self.private, overlaps=self.device.type == "cuda")
        )
        # Hooks move each gradient into its row during the backward pass: storing all gradients first would double the memory.
        for index, parameter in enumerate(self.shared):
            parameter.register_post_accumulate_grad_hook(self._keeper(index))

    def losses_after(self, step: Sequence[TaskLoss]) -> Tensor:
        """Return the losses (k,) of the last step with the current weights, see `ForwardPasses.losses_after`."""
        losses = self.passes.losses_after(step)
        self.world.sum_(losses, in_step=True)
        return losses

    def norm(self) -> float:
        """Return the norm of the gradient of the last step over all parameters of the model."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if not self.is_sharded:
            return float(torch.nn.utils.get_total_norm(gradients))
        square = torch.zeros((), dtype=torch.float64)
        # Parts first: whole gradients are equal in all processes and must not be summed over them.
        for gradient in gradients:
            if is_divided(gradient):
                square += local(gradient).double().square().sum().cpu()
        self.world.sum_(square, in_step=True)
        for gradient in gradients:
            if not is_divided(gradient):
                square += gradient.double().square().sum().cpu()
        return float(square.sqrt())

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
                require_shape(weights, (len(tasks),))
        return weights

    def buffer_bytes(self) -> int:
        """Return the memory of the rows, 0 if they are not needed."""
        rows = self.max_tasks if self.needs_rows() else int(self.exchange is not None)
        return 4 * self.size * rows

    def run(self, step: Sequence[TaskLoss]) -> Combined:
        """Compute the gradients of one step, replacing those of the step before."""
        for parameter in [*self.shared, *(p for of_task in self.private for p in of_task), *self.learned]:
            parameter.grad = None
        tasks = torch.tensor([task_loss.task for task_loss in step], device=self.device)
        # In place, one weight multiplies the whole backward pass of a task, its head included.
        in_place = self.balancer.weighs_heads and not self.keeps_rows
        weights = self._known_weights(tasks) if in_place else None
        combined = self._combine(step, tasks) if weights is None else self._accumulate(step, tasks, weights)
        for regularizer in self.regularizers:
            with plugin_call(regularizer, "after_backward", "gradients added to parameters that have one"):
                regularizer.after_backward(self.model)
        return combined

    def _accumulate(self, step: Sequence[TaskLoss], tasks: Tensor, weights: Tensor) -> Combined:
        """Accumulate the weighted gradients in place during the backward passes, with weights known beforehand."""
        factors = weights * self._visit_weights(step)
        if self.exchange is None:
            losses, totals = self._run_passes(step, factors)
        else:
            # One row takes the gradients of all tasks, because a sum over processes needs them in one piece.
            losses, totals = self._run_in_rows(step, factors)
            self._take_row()
        objectives, weights = self._balance(totals, tasks)
        return Combined(tasks, losses, totals, objectives, weights, torch.ones_like(weights), None)

    def _run_in_rows(self, step: Sequence[TaskLoss], factors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run all passes with the gradients of shared parameters in rows, summed over the processes, and return the losses.

        Args:
            factors: weights (k,) of the tasks, whose weighted gradients all go to row 0; None: a row for each task.
        """
        count = len(step) if factors is None else 1
        rows = self._buffer(count)[:count]
        self._touched, self._complete = [set() for _ in rows], 0
        # 0 for a task without rows in this process: its row is then complete from the start.
        self._missing = [len(task_loss.batches) for task_loss in step]
        losses, totals = self._run_passes(step, factors)
        self._complete_rows(count)
        if self.exchange is None:
            return losses, totals
        sums_rows = not self.is_sharded  # FSDP has summed the gradients of its parameters
        return self.exchange.sum_step(step, rows, self._touched, len(self.shared), losses, totals, sums_rows=sums_rows)

    def _complete_rows(self, end: int) -> None:
        """Complete the rows up to `end` in order: columns of parameters without a gradient still hold that of another step."""
        for row in range(self._complete, end):
            for absent in set(range(len(self.shared))) - self._touched[row]:
                self._views[row][absent].zero_()
            # FSDP has summed the gradients of its parameters in the backward pass.
            if self.exchange is not None and self.exchange.overlaps and not self.is_sharded:
                self.exchange.start(self._buffer(end)[row])
        self._complete = max(self._complete, end)

    def _take_row(self) -> None:
        """Set the gradients of the shared parameters to row 0; None for a parameter that no task of the step uses."""
        for index in set().union(*self._touched):
            self.shared[index].grad = divided_like(self._views[0][index], self.shared[index])

    def _combine(self, step: Sequence[TaskLoss], tasks: Tensor) -> Combined:
        """Compute the rows, then the balancer's weights from their losses, then the coefficients from their Gram matrix."""
        losses, totals = self._run_in_rows(step, None)
        rows = self._buffer(len(step))[: len(step)]
        regularizer, needs = self.gradient_regularizer, self.balancer.needs
        compared, apart = rows[:, self.compared], rows[:, self.compared.stop :]
        gram = self._gram(compared) if regularizer is not None or "gram" in needs else None
        balancer_gram = self._last_layer_gram(rows) if "last-layer-gram" in needs else gram
        objectives, weights = self._balance(totals, tasks, balancer_gram)
        visit_weights = self._visit_weights(step)
        factors, coefficients = weights * visit_weights, torch.ones_like(weights)
        # `stop` is 0 if no shared parameter is compared: the Gram matrix is then all zeros.
        if regularizer is None or gram is None or not self.compared.stop:
            combine_rows(rows, factors.tolist())
        else:
            coefficients = self._regularize(regularizer, compared, factors, gram, tasks.cpu())
            combine_rows(apart, factors.tolist())
        # A parameter that no task of the step uses keeps grad None, so that AdamW does not decay it.
        self._take_row()
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
        # The Gram matrix of w_i g_i is w_i w_j G_ij, so the rows need not be multiplied first.
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
                require_shape(combined, rows.shape[1:])
            rows[0].copy_(combined).mul_(regularizer.scaling(len(tasks)))
            return torch.ones_like(weights)
        if not self.blocks:
            with plugin_call(regularizer, "weights", f"weights ({len(tasks)},) from a Gram matrix {tuple(gram.shape)}"):
                coefficients = regularizer.weights(gram, tasks)
                require_shape(coefficients, (len(tasks),))
            coefficients = (coefficients * regularizer.scaling(len(tasks), coefficients)).to(weights)
            combine_rows(rows, (coefficients * weights).tolist())
            return coefficients
        grams = torch.stack([self._gram(rows[:, columns]) for _, columns in self.blocks])
        expected = (len(self.blocks), len(tasks))
        with plugin_call(regularizer, "block_weights", f"weights {expected} from Gram matrices {tuple(grams.shape)}"):
            by_block = regularizer.block_weights(grams * outer, tasks)
            require_shape(by_block, expected)
        # By block, because the factor of a method of scale `own` depends on the sum of the weights.
        by_block = torch.stack([of_block * regularizer.scaling(len(tasks), of_block) for of_block in by_block])
        for (_, columns), of_block in zip(self.blocks, by_block * by_weight, strict=True):
            combine_rows(rows[:, columns], of_block.tolist())
        return by_block.mean(0).to(weights)

    def _gram(self, rows: Tensor) -> Tensor:
        """Return the Gram matrix (k, k) of rows (k, P), on the CPU and the same in every process."""
        gram = gram_matrix(rows).cpu()
        if self.is_sharded:
            self.world.sum_(gram, in_step=True)
        else:
            # On machines that differ, the last bit may too, and with it the sign that a method decides by.
            self.world.copy_([gram])
        return gram

    def _last_layer_gram(self, rows: Tensor) -> Tensor:
        """Return the Gram matrix (k, k) of the unweighted gradients on the last shared layer.

        That is the last layer that every task of the step uses; if there is none, the last layer that any task uses.
        """
        fallback = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for _, columns in reversed(self.layers):
            gram = self._gram(rows[:, columns])
            # A diagonal of 0 also skips modules behind the last layer that no head reads, such as the pooler of BERT.
            if bool(gram.diagonal().all()):
                return gram
            if not bool(fallback.any()):
                fallback = gram
        return fallback

    def _run_passes(self, step: Sequence[TaskLoss], factors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run forward and backward passes of all micro-batches; return the losses per unit (k,) without and with regularizers.

        Args:
            factors: weights (k,) of the tasks, whose gradients are added in place; None: each task's gradient goes to its row.
        """
        return self.passes.run(step, partial(self._backward, factors))

    def _backward(self, factors: Tensor | None, members: Pass, totals: Sequence[Tensor]) -> None:
        """Run the backward pass: one for all members if their weights are known, else one for the row of each."""
        if factors is not None:
            weighted = [total * factors[number] for (number, _), total in zip(members, totals, strict=True)]
            self._row = None if self.exchange is None else 0
            try:
                # One backward pass of the sum, so that the encoder of a shared pass is differentiated once.
                (weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()).backward()
            finally:
                self._row = None
            return
        for place, ((number, _), total) in enumerate(zip(members, totals, strict=True)):
            self._row = number
            try:
                # The last member frees the graph of the encoder, which all members share.
                total.backward(retain_graph=place + 1 < len(members))
            finally:
                self._row = None
            self._missing[number] -= 1
        # In the same order in every process, whichever rows it has.
        self._complete_rows(next((row for row, left in enumerate(self._missing) if left), len(self._missing)))

    def _balance(self, totals: Tensor, tasks: Tensor, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return objectives (k,) and weights (k,) = d sum(objectives) / d losses; set the gradients of the balancer's parameters."""
        # Detached leaves: the balancer's graph ends at the losses, because the tasks' graphs are already freed.
        losses = totals.detach().requires_grad_()
        k = len(losses)
        with plugin_call(
            self.balancer, "forward", f"objectives ({k},) that depend on the losses ({k},) of the step's tasks"
        ):
            objectives = self.balancer(losses, tasks)
            require_shape(objectives, losses.shape)
            require(objectives.requires_grad, "returned objectives that depend on neither the losses nor a parameter")
            # Parameters of absent tasks are unused. Their gradient stays None, so the optimizer skips them.
            weights, *gradients = torch.autograd.grad(objectives.sum(), [losses, *self.learned], allow_unused=True)
        if gram is not None:
            with plugin_call(
                self.balancer, "own_objective", "one number that depends on the balancer's parameters, or None"
            ):
                aim = self.balancer.own_objective(losses.detach(), tasks, gram.to(losses))
                if aim is not None:
                    require_shape(aim, ())
                    gradients = list(torch.autograd.grad(aim, self.learned, allow_unused=True))
        for parameter, gradient in zip(self.learned, gradients, strict=True):
            parameter.grad = gradient
        return objectives.detach(), torch.zeros_like(losses) if weights is None else weights

    def _buffer(self, count: int) -> Tensor:
        """Return the buffer with room for `count` rows."""
        if self.rows is None or len(self.rows) < count:
            # Room for the largest step, so that the buffer is allocated once.
            most = self.max_tasks if count > 1 or self.needs_rows() else 1
            if self.exchange is None:
                self.rows = torch.empty(most, self.size, device=self.device, dtype=torch.float32)
            else:
                self.rows = self.exchange.rows_of(most, self.size, len(self.shared), self.device)
            parts = [local(parameter) for parameter in self.shared]
            sizes = [part.numel() for part in parts]
            self._views = [
                [columns.view_as(part) for columns, part in zip(row.split(sizes), parts, strict=True)]
                for row in self.rows
            ]
        return self.rows

    def _keeper(self, index: int):  # type: ignore[no-untyped-def]
        """Return a hook that moves a gradient into its row as soon as it is computed, so that it is never stored twice."""

        def keep(parameter: nn.Parameter) -> None:
            if self._row is None or parameter.grad is None:
                return
            touched = self._touched[self._row]
            # The first micro-batch overwrites the gradient of an earlier step; the others add to it.
            view = self._views[self._row][index]
            if index in touched:
                view.add_(local(parameter.grad))
            else:
                view.copy_(local(parameter.grad))
                touched.add(index)
            parameter.grad = None

        return keep
