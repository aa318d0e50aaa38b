"""From a model and tokenized rows to predictions."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mtlcli.data.batches import Batch, by_length, collate, with_labels
from mtlcli.data.tokens import TokenizedSplit
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
    features: Features | None = None,
) -> dict[int, Predicted]:  # fmt: skip
    """Run the heads of tasks over the same rows, longest first, without dropout. The model stays in its mode.

    Args:
        splits: the rows by task (index), with the same token sequences for all.
        features: of these rows, in place of the encoder.

    Raises:
        NotFinite: an output is NaN or infinite.
    """
    first = next(iter(splits.values()))
    groups = model.pass_groups([*splits]) if features is None else [[*splits]]
    parts: dict[int, list[Arrays]] = {task: [] for task in splits}
    losses, units = dict.fromkeys(splits, 0.0), dict.fromkeys(splits, 0.0)
    orders = []
    with evaluating(model), torch.inference_mode(), autocast:
        for rows in by_length(first.lengths()):
            on_cpu = collate(first, next(iter(splits)), rows)
            batch = on_cpu.to(device)
            orders.append(rows)
            for group in groups:
                states = model.states_of(group, batch) if features is None else features.hidden(batch)
                for task in group:
                    output = model.output(task, batch, model.features(task, batch, states))
                    if not output.isfinite().all():
                        raise NotFinite(
                            f"{model.names[task]}: the model's output is NaN or infinite; training may have diverged"
                        )
                    parts[task].append(model.decode(task, output, batch).numpy())
                    labels = with_labels(on_cpu, splits[task], task)
                    if labels.gold is not None:
                        losses[task] += float(model.head(task).loss(output, labels.gold.to(device)).double().sum())
                        units[task] += labels.units
    if not orders:
        raise ValueError("no rows to predict")
    back = np.argsort(np.concatenate(orders))
    return {
        task: Predicted(concat(of_task).take(back), losses[task] / units[task] if units[task] else float("nan"))
        for task, of_task in parts.items()
    }


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
        return float(model.head(batch.task).loss(output, batch.gold).double().sum() / batch.units)


@contextmanager
def evaluating(model: MultiTaskModel) -> Iterator[None]:
    """Switch dropout off, and afterwards put the model back into its mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
