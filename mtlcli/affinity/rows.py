"""Batches of training rows for measurements, apart from those that a run trains on, and losses and gradients of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch, TaskBatches, collate
from mtlcli.facts import seed_for
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.training.compatibility import composition_of
from mtlcli.training.gradient_rows import blocks_of
from mtlcli.training.setup import TrainingRun


def shared_encoder(model: MultiTaskModel) -> list[tuple[str, nn.Parameter]]:
    """Return the trainable parameters before the heads that several tasks use, with their names.

    A module that two heads share is not among them: it would make the cosine of these two tasks partly trivial.
    """
    return [(name, p) for name, p in model.named_shared_parameters() if name.startswith("architecture.")]


def encoder_blocks(model: MultiTaskModel, words: str) -> list[tuple[str, slice]]:
    """Return the blocks of `shared_encoder` by layer, with the word embeddings as a block called `words` of their own."""
    # By id, because the word embeddings have another name in every kind of encoder.
    embeddings = {
        id(p)
        for task in range(len(model.names))
        for p in model.architecture.encoder_of(task).get_input_embeddings().parameters()  # type: ignore[operator]
    }
    named = [(words if id(p) in embeddings else name, p) for name, p in shared_encoder(model)]
    blocks: list[tuple[str, slice]] = []
    for name, columns in blocks_of(named, "layer"):
        blocks.append((_unused(name.removeprefix("architecture."), [other for other, _ in blocks]), columns))
    return blocks


def _unused(name: str, names: Sequence[str]) -> str:
    """Return a name that is not taken: parameters around the word embeddings can share a prefix."""
    number, free = 2, name
    while free in names:
        free, number = f"{name} ({number})", number + 1
    return free


@dataclass(frozen=True)
class MeasuredBatches:
    """Hold the row numbers of the batches of one task for one measurement, all disjoint."""

    batches: tuple[np.ndarray, ...]


def measured_batches(run: TrainingRun, task: int, purpose: str, most: int) -> MeasuredBatches:
    """Return up to `most` batches of labeled rows in an order that depends on seed, purpose and the task's rows alone.

    Rows are drawn without regard to their length, so that every batch is a random sample. Tasks that read the same rows get disjoint
    parts of them, or the noise of shared rows would count as similarity. A task whose loss prescribes the composition of a
    batch gets such batches.
    """
    source = run.train[task]
    order_name = f"{purpose} {source.order_name}"
    composition = composition_of(run.config, source.name)
    if composition is not None:
        made = TaskBatches(
            source.tokenized,
            task=task,
            name=source.name,
            batch_size=source.batch_size,
            seed=source.seed,
            composition=composition,
            order_name=order_name,
        )
        return MeasuredBatches(tuple(made.next().rows for _ in range(min(most, made.per_pass))))
    generator = np.random.Generator(np.random.PCG64(seed_for(source.seed, "affinity", order_name)))
    order = generator.permutation(len(source.tokenized))
    if source.group is not None:
        members = [other for other, batches in enumerate(run.train) if batches.group == source.group]
        # A group has one `order_name`, and so one permutation, of which each member takes every n-th row.
        order = order[members.index(task) :: len(members)]
    split = run.tasks[task].splits["train"]
    # After the division: members of a group can lack labels in different rows, which would shift their parts.
    order = order[split.target.units(split.gold)[order] > 0]
    # Full batches only, because the gradients of a task are treated as equally distributed.
    count = min(most, len(order) // source.batch_size)
    return MeasuredBatches(tuple(order[: count * source.batch_size].reshape(count, source.batch_size)))


def make_batch(run: TrainingRun, task: int, rows: np.ndarray) -> Batch:
    """Return training rows of a task as a batch on the run's device."""
    return collate(run.train[task].tokenized, task, rows).to(run.device)


def mean_loss(model: MultiTaskModel, batch: Batch) -> Tensor:
    """Return the loss per unit of a batch with its graph, without regularizers and without what an architecture adds."""
    losses = model.losses(batch.task, model(batch.task, batch), batch)
    if batch.weights is not None:
        losses = losses * batch.weights
    # Without a labeled row, both the sum and the mean are 0.
    return losses.sum() / (batch.units or 1.0)


def gradient_row(model: MultiTaskModel, batch: Batch, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the gradient of a batch's loss with respect to parameters, flat (P,) float32; `.grad` is not touched."""
    # A task need not use every shared parameter.
    gradients = torch.autograd.grad(mean_loss(model, batch), parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).reshape(-1).float()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )


def in_rounds(total: int, size: int) -> Iterator[range]:
    """Yield the numbers from 0 to `total` in parts of `size`."""
    for start in range(0, total, size):
        yield range(start, min(total, start + size))
