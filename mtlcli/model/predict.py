"""From a model and tokenized rows to predictions."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mtlcli.data.batches import Batch, by_length, collate, with_labels
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.distributed.world import World
from mtlcli.errors import MtlError
from mtlcli.model.frozen import Features
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.targets import Arrays, concat


class NotFinite(MtlError):
    """A model's output is NaN or infinite, so that it predicts nothing: the largest of such scores would be the first class."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of n rows in their order, and the loss per unit over what has a known label; NaN where nothing has."""

    rows: Arrays
    loss: float


def predict_rows(
    model: MultiTaskModel, splits: Mapping[int, TokenizedSplit], device: torch.device, autocast: AbstractContextManager[object],
    features: Features | None = None, world: World | None = None,
) -> dict[int, Predicted]:  # fmt: skip
    """Run the heads of tasks over the same rows, longest first, without dropout. The model stays in its mode.

    Each process of `world` computes a part of the batches, and all return the whole.

    Args:
        splits: the rows by task (index), with the same token sequences for all.
        features: of these rows, in place of the encoder.

    Raises:
        NotFinite: an output is NaN or infinite.
    """
    first = next(iter(splits.values()))
    groups = model.pass_groups([*splits]) if features is None else [[*splits]]
    batches = by_length(first.lengths())
    if not batches:
        raise ValueError("no rows to predict")
    batches_here = batches if world is None else batches[world.share(len(batches))]
    count = len(batches_here)
    if world is not None and model.is_sharded and count < -(-len(batches) // world.size):
        # The layers are gathered for every pass, so all processes run the same number.
        batches_here = [*batches_here, batches[-1]]
    with evaluating(model), torch.inference_mode(), autocast:
        parts = [_predict_batch(model, splits, groups, rows, device, features) for rows in batches_here][:count]
    if world is not None:
        parts = world.in_order(parts, len(batches))
    finite = [part for part in parts if not isinstance(part, str)]
    if len(finite) < len(parts):
        name = next(part for part in parts if isinstance(part, str))
        raise NotFinite(f"{name}: the model's output is NaN or infinite; training may have diverged")
    # The argsort of a permutation is its inverse, which restores the order of the rows.
    back = np.argsort(np.concatenate(batches))
    predicted = {}
    for task in splits:
        arrays, losses, units = zip(*(of_batch[task] for of_batch in finite), strict=True)
        loss = sum(losses) / sum(units) if sum(units) else float("nan")
        predicted[task] = Predicted(concat(arrays).take(back), loss)
    return predicted


def _predict_batch(
    model: MultiTaskModel, splits: Mapping[int, TokenizedSplit], groups: list[list[int]], rows: np.ndarray,
    device: torch.device, features: Features | None,
) -> dict[int, tuple[Arrays, float, float]] | str:  # fmt: skip
    """Return predictions, summed loss and loss units of each task for some rows, or the name of a task with an output not finite."""
    on_cpu = collate(next(iter(splits.values())), next(iter(splits)), rows)
    batch = on_cpu.to(device)
    predicted: dict[int, tuple[Arrays, float, float]] = {}
    for group in groups:
        states = model.states_of(group, batch) if features is None else features.hidden(batch)
        for task in group:
            output = model.output(task, batch, model.features(task, batch, states))
            if not output.isfinite().all():
                # Returned instead of raised: the other processes wait in the gather, which passes it on to them.
                return model.names[task]
            labels = with_labels(on_cpu, splits[task], task)
            loss = 0.0
            if labels.gold is not None:
                # On the CPU, because MPS has no float64.
                loss = float(model.head(task).loss(output, labels.gold.to(device)).cpu().double().sum())
            predicted[task] = (model.decode(task, output, batch).numpy(), loss, labels.units)
    return predicted


@torch.inference_mode()
def uncertainty_of(
    model: MultiTaskModel, batch: Batch, autocast: AbstractContextManager[object]
) -> torch.Tensor | None:
    """Return how unsure the model is of each row (n,) on the CPU, without dropout; see `Target.uncertainty`."""
    with evaluating(model), autocast:
        predicted = model.decode(batch.task, model(batch.task, batch), batch)
    return model.head(batch.task).facts.task.target.uncertainty(predicted.numpy().tensors())


@torch.inference_mode()
def loss_on(model: MultiTaskModel, batch: Batch, autocast: AbstractContextManager[object]) -> float:
    """Return the loss per unit over what has a known label in a batch, without dropout; NaN where nothing has."""
    with evaluating(model), autocast:
        output = model(batch.task, batch)
        if batch.gold is None or not batch.units:
            return float("nan")
        return float(model.head(batch.task).loss(output, batch.gold).cpu().double().sum() / batch.units)


@contextmanager
def evaluating(model: MultiTaskModel) -> Iterator[None]:
    """Switch dropout off, and afterwards put the model back into its mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
