"""The forward passes of a step: the encoder once for tasks with the same rows, then each task's head, losses and regularizers."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import HiddenStates
from mtlcli.balancers.base import Balancer, BatchLosses
from mtlcli.data.batches import Batch
from mtlcli.errors import MtlError
from mtlcli.model.frozen import Features
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.model.row_noise import keyed
from mtlcli.registry import plugin_call, require
from mtlcli.regularizers.base import Forward, Regularizer
from mtlcli.training.passes import Pass, TaskLoss, passes_of
from mtlcli.training.rng import random_states, replayed, set_random_states

Backward = Callable[[Pass, Sequence[Tensor]], None]
"""Run the backward pass of a pass: its members, and the total loss of each with its graph."""


@dataclass(frozen=True)
class _Recorded:
    """A pass that can be repeated: the random states before it, and the buffers of each member's head."""

    members: Pass
    states: list[Tensor]
    buffers: list[dict[str, Tensor]]


class ForwardPasses:
    """Run the passes of one step after the other, so that only one graph is in memory.

    Attributes:
        features: by task, cached features that replace the encoder for training batches.
    """

    def __init__(
        self, model: MultiTaskModel, balancer: Balancer, regularizers: Sequence[Regularizer],
        autocast: AbstractContextManager[object],
    ) -> None:  # fmt: skip
        self.model, self.balancer, self.regularizers = model, balancer, regularizers
        self.autocast = autocast
        self._device = next(model.parameters()).device
        self.features: Mapping[int, Features] = {}
        self._recorded: list[_Recorded] = []

    def run(self, step: Sequence[TaskLoss], backward: Backward) -> tuple[Tensor, Tensor]:
        """Run all passes, each followed by `backward`; return the losses per unit (k,) without and with regularizers."""
        device = self._device
        sums = [[torch.zeros((), device=device)] * 2 for _ in step]
        self._recorded = []
        for members in passes_of(step, self._pass_of):
            outcomes = self._forward(step, members)
            backward(members, [total for _, _, total in outcomes])
            for (number, batch), (output, loss, total) in zip(members, outcomes, strict=True):
                # After the backward pass, because updating a buffer could invalidate the graph.
                if batch.gold is not None:
                    self.model.head(batch.task).observe(output.detach(), batch.gold)
                sums[number] = [sums[number][0] + loss.detach(), sums[number][1] + total.detach()]
        losses, totals = (torch.stack(of_step) for of_step in zip(*sums, strict=True))
        return losses, totals

    @torch.no_grad()
    def losses_after(self, step: Sequence[TaskLoss]) -> Tensor:
        """Return the losses (k,) of the last step with the current weights and the dropout masks of that step."""
        device = self._device
        losses = [torch.zeros((), device=device) for _ in step]
        for recorded in self._recorded:
            members = recorded.members
            with replayed(recorded.states, device), self.autocast:
                with keyed(members[0][1]):
                    states = self._states(members)
                after = random_states(device)
                for (number, batch), buffers in zip(members, recorded.buffers, strict=True):
                    # As in `_forward`, every head continues from the random state after the encoder.
                    set_random_states(after, device)
                    with _with_buffers(self.model.head(batch.task), buffers), keyed(batch):
                        hidden = self.model.features(batch.task, batch, states)
                        output = self.model.output(batch.task, batch, hidden)
                        of_rows = _sum(self.model.losses(batch.task, output, batch), batch)
                        losses[number] += 0.0 * of_rows if batch.is_idle else of_rows
        return torch.stack([loss / task_loss.units for loss, task_loss in zip(losses, step, strict=True)])

    def _pass_of(self, task: int) -> Hashable | None:
        """Return the key of a task's pass of the encoder; None where cached features replace it."""
        return None if task in self.features else self.model.pass_of(task)

    def _forward(self, step: Sequence[TaskLoss], members: Pass) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Run the encoder once, and the head of each member: its output, its loss, and the same with regularizers.

        Both losses are sums over the rows, divided by the units of the task's whole visit.
        """
        repeats = "losses-after" in self.balancer.needs
        device = self._device
        # Recorded before the pass, so that dropout can draw the same masks again.
        random = random_states(device) if repeats or self.regularizers else []
        if repeats:
            heads = [self.model.head(batch.task) for _, batch in members]
            # `Head.observe` changes buffers after the pass, and the repetition needs their values before it.
            buffers = [{name: value.clone() for name, value in head.named_buffers()} for head in heads]
            self._recorded.append(_Recorded(members, random, buffers))
        with self.autocast, keyed(members[0][1]):
            states = self._states(members)
        # Every task draws what it would draw alone, so that a pass can be repeated for one of them.
        after = random_states(device) if random and len(members) > 1 else []
        outcomes = []
        for number, batch in members:
            task, task_loss = batch.task, step[number]
            if after:
                set_random_states(after, device)
            with self.autocast, keyed(batch):
                hidden = self.model.features(task, batch, states)
                output = self.model.output(task, batch, hidden)
                losses = self.model.losses(task, output, batch)
                loss = _sum(losses, batch) / task_loss.units
                total = _sum(self._mixed(task, batch, output, losses), batch) / task_loss.units
                # What is added is a mean per row, so micro-batches are weighted by their rows.
                share = batch.count / task_loss.count
                if hidden.extra is not None:
                    total = total + share * hidden.extra.float().mean()
                if self.regularizers:
                    total = total + share * regularization(
                        self.model, task, batch, hidden, output, random, self.regularizers
                    )
            if batch.is_idle:
                # Multiplied by 0 instead of skipped, because the backward pass gathers the layers in every process.
                loss, total = 0.0 * loss, 0.0 * total
            if not total.requires_grad:
                raise MtlError(
                    f"{self.model.names[task]}: no trainable parameter affects its loss; freeze less, use a head with parameters, "
                    "or remove the task"
                )
            outcomes.append((output, loss, total))
        return outcomes

    def _states(self, members: Pass) -> HiddenStates:
        """Return the states of the rows of a pass for all its members."""
        batch = members[0][1]
        features = self.features.get(batch.task)
        if features is not None:
            return features.hidden(batch)
        return self.model.states_of([member.task for _, member in members], batch)

    def _mixed(self, task: int, batch: Batch, output: Tensor, losses: Tensor) -> Tensor:
        """Return the losses (n,) of a batch after `Balancer.batch_losses`, which may replace them; 0 for rows without a label."""
        head = self.model.head(task)
        with plugin_call(self.balancer, "batch_losses", f"losses {tuple(losses.shape)} with their graph"):
            mixed = self.balancer.batch_losses(
                BatchLosses(task, batch.rows, losses, lambda gold: head.loss(output, gold).float())
            )
            require_shape(mixed, losses.shape)
        # A teacher has predictions for rows without a label too, by which the sum is not divided.
        return mixed if batch.labeled is None else torch.where(batch.labeled, mixed, 0.0)


def require_shape(value: object, shape: Sequence[int]) -> None:
    """Require a tensor of this shape, inside a `plugin_call`."""
    actual = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    require(actual == tuple(shape), f"returned {actual}")


def _sum(losses: Tensor, batch: Batch) -> Tensor:
    """Return the sum of the losses (n,) of a batch's rows, each times the row's weight."""
    return losses.sum() if batch.weights is None else (losses * batch.weights).sum()


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


def regularization(
    model: MultiTaskModel, task: int, batch: Batch, hidden: HiddenStates, output: Tensor, states: list[Tensor],
    regularizers: Sequence[Regularizer],
) -> Tensor | float:  # fmt: skip
    """Return the sum of the regularizers' terms, added to the mean loss of a batch; 0.0 without regularizers.

    `states` are the random states before the pass that computed `hidden` and `output`, so that a regularizer can repeat it
    with the same dropout masks.
    """

    def rerun(embeddings: Tensor | None = None, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        # Dropout draws from the random state, or by row from the keys; both are those of the first pass.
        with replayed(states, batch.tokens.device), keyed(batch):
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
                require_shape(value, ())
                added.append(value)
    return torch.stack(added).sum() if added else 0.0
