"""From a model and tokenized rows to predictions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mtlcli.data.batches import Batch, by_length, collate
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
    model: MultiTaskModel, task: int, tokenized: TokenizedSplit, device: torch.device, autocast: AbstractContextManager[object],
    features: Features | None = None,
) -> Predicted:  # fmt: skip
    """Run a task's head over all rows, longest first, without dropout. The model stays in its mode.

    `features` of these rows take the place of the encoder.

    Raises:
        NotFinite: an output is NaN or infinite.
    """
    parts, orders = [], []
    loss_sum, units = 0.0, 0.0
    with _evaluating(model), torch.inference_mode(), autocast:
        for rows in by_length(tokenized.lengths()):
            batch = collate(tokenized, task, rows).to(device)
            hidden = model.hidden(task, model.inputs(task, batch)) if features is None else features.hidden(batch)
            output = model.output(task, batch, hidden)
            if not output.isfinite().all():
                raise NotFinite(
                    f"{model.names[task]}: the model's output is NaN or infinite; training may have diverged"
                )
            parts.append(model.decode(task, output, batch).numpy())
            orders.append(rows)
            if batch.gold is not None:
                loss_sum += float(model.head(task).loss(output, batch.gold).double().sum())
                units += batch.units
    if not parts:
        raise ValueError("no rows to predict")
    predicted = concat(parts).take(np.argsort(np.concatenate(orders)))
    return Predicted(predicted, loss_sum / units if units else float("nan"))


@torch.inference_mode()
def uncertainty_of(
    model: MultiTaskModel, batch: Batch, autocast: AbstractContextManager[object]
) -> torch.Tensor | None:
    """Return how unsure the model is of each row (n,) on the CPU, without dropout; see `Target.uncertainty`."""
    with _evaluating(model), autocast:
        predicted = model.decode(batch.task, model(batch.task, batch), batch)
    return model.head(batch.task).facts.task.target.uncertainty(predicted.numpy().tensors())


@torch.inference_mode()
def loss_on(model: MultiTaskModel, batch: Batch, autocast: AbstractContextManager[object]) -> float:
    """Return the loss per unit over what has a known label in a batch, without dropout; NaN where nothing has."""
    with _evaluating(model), autocast:
        output = model(batch.task, batch)
        if batch.gold is None or not batch.units:
            return float("nan")
        return float(model.head(batch.task).loss(output, batch.gold).double().sum() / batch.units)


@contextmanager
def _evaluating(model: MultiTaskModel) -> Iterator[None]:
    """Switch dropout off, and afterwards put the model back into its mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
