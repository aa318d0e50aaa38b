"""From a model and tokenized rows to predictions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mtlcli.data.batches import Batch, by_length, collate
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.model.frozen import Features
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.targets import UNSEEN


@dataclass(frozen=True)
class Predicted:
    """Predictions of n rows in their order: values (n,) class indices or scores, probabilities (n, classes) or None; loss is
    the mean over rows with a known label, NaN where there are none."""

    values: np.ndarray
    probabilities: np.ndarray | None
    loss: float


def predict_rows(
    model: MultiTaskModel, task: int, tokenized: TokenizedSplit, device: torch.device, autocast: AbstractContextManager[object],
    features: Features | None = None,
) -> Predicted:  # fmt: skip
    """Runs a task's head over all rows, longest first, dropout off; the model is left in the mode it was in. `features` of
    these rows take the place of the encoder."""
    n = len(tokenized)
    values: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    loss_sum, counted = 0.0, 0
    with _evaluating(model), torch.inference_mode(), autocast:
        for rows in by_length(tokenized.lengths()):
            batch = collate(tokenized, task, rows).to(device)
            hidden = model.hidden(task, model.inputs(task, batch)) if features is None else features.hidden(batch)
            output = model.output(task, batch.sides, hidden, batch.mask)
            decoded = model.head(task).decode(output)
            found = decoded.values.cpu().numpy()
            values = np.empty(n, dtype=found.dtype) if values is None else values
            values[rows] = found
            if decoded.probabilities is not None:
                part = decoded.probabilities.float().cpu().numpy()
                probabilities = (
                    np.empty((n, part.shape[1]), dtype=np.float32) if probabilities is None else probabilities
                )
                probabilities[rows] = part
            if batch.targets is not None:
                known = batch.targets != UNSEEN if model.head(task).facts.task.labels is not None else None
                output = output if known is None else output[known]
                targets = batch.targets if known is None else batch.targets[known]
                if len(targets):
                    loss_sum += float(model.head(task).loss(output, targets).double().sum())
                    counted += len(targets)
    if values is None:
        raise ValueError("no rows to predict")
    return Predicted(values, probabilities, loss_sum / counted if counted else float("nan"))


@torch.inference_mode()
def probabilities_of(
    model: MultiTaskModel, batch: Batch, autocast: AbstractContextManager[object]
) -> torch.Tensor | None:
    """What the model gives the classes of a batch's rows (n, classes), dropout off, on the CPU; None for scores."""
    with _evaluating(model), autocast:
        found = model.head(batch.task).decode(model(batch.task, batch)).probabilities
    return None if found is None else found.float().cpu()


@torch.inference_mode()
def loss_on(model: MultiTaskModel, batch: Batch, autocast: AbstractContextManager[object]) -> float:
    """Mean loss over a batch's rows with a known label, dropout off; NaN where there are none."""
    with _evaluating(model), autocast:
        output = model(batch.task, batch)
        if batch.targets is None:
            return float("nan")
        known = torch.ones_like(batch.targets, dtype=torch.bool)
        if model.head(batch.task).facts.task.labels is not None:
            known = batch.targets != UNSEEN
        return float(model.head(batch.task).loss(output[known], batch.targets[known]).double().mean())


@contextmanager
def _evaluating(model: MultiTaskModel) -> Iterator[None]:
    """Dropout off inside; afterwards the model is in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
