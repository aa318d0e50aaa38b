"""From a model and labelled rows to predictions, metrics with intervals, and the one number that selects a checkpoint."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mtlcli import registry
from mtlcli.config import TaskConfig
from mtlcli.data.batching import Batch, by_length, collate
from mtlcli.data.encoding import Encoded
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.features import Features
from mtlcli.metrics.base import Metric
from mtlcli.metrics.bootstrap import Estimate, estimate
from mtlcli.model import MultiTaskModel
from mtlcli.plugin import TaskFacts
from mtlcli.tasks.base import UNSEEN, Task


@dataclass(frozen=True)
class Predicted:
    """Predictions of n rows in their order: values (n,) class indices or scores, probabilities (n, classes) or None; loss is
    the mean over rows with a known label, NaN where there are none."""

    values: np.ndarray
    probabilities: np.ndarray | None
    loss: float


def predict_rows(
    model: MultiTaskModel, task: int, encoded: Encoded, device: torch.device, autocast: AbstractContextManager[object],
    features: Features | None = None,
) -> Predicted:  # fmt: skip
    """Runs a task's head over all rows, longest first, dropout off; the model is left in the mode it was in. `features` of
    these rows take the place of the encoder."""
    n = len(encoded)
    values: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    loss_sum, counted = 0.0, 0
    with _evaluating(model), torch.inference_mode(), autocast:
        for rows in by_length(encoded.lengths()):
            batch = collate(encoded, task, rows).to(device)
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


def chosen_metrics(section: TaskConfig, task: Task) -> tuple[str, ...]:
    """Names of what to measure a task by: those of its configuration, else those of its kind."""
    return tuple(section.metrics or task.metrics)


def make_metrics(names: tuple[str, ...], task: TaskFacts, where: str, precision: str = "fp32") -> dict[str, Metric]:
    """The metrics of a task by name, the primary one first, for predictions made in `precision`. Raises MtlError for one that
    measures other predictions."""
    found: dict[str, Metric] = {}
    predicts = "scores" if task.is_regression else "classes"
    for name in names:
        metric: type[Metric] = registry.load("metrics", name, where)
        if metric.measures not in (None, predicts):
            raise MtlError(f'{where}: "{name}" measures {metric.measures}, and this task predicts {predicts}')
        found[name] = metric(task)
        found[name].precision = precision
    return found


def measure(
    metrics: Mapping[str, Metric], predicted: Predicted, targets: np.ndarray, resamples: int
) -> dict[str, Estimate]:
    """Every metric with its 95 % interval; low and high equal the value where `resamples` is 0."""
    if resamples:
        return {
            name: estimate(metric, predicted.values, targets, resamples=resamples) for name, metric in metrics.items()
        }
    ones = np.ones((1, len(targets)), dtype=np.int64)
    found = {}
    for name, metric in metrics.items():
        value = float(metric.values(predicted.values, targets, ones)[0])
        found[name] = Estimate(value, value, value, len(targets))
    return found


@dataclass(frozen=True)
class Selection:
    """How a checkpoint is judged: the mean of these (task, metric) pairs, higher being better."""

    terms: tuple[tuple[str, str], ...]
    normalized: bool

    def score(self, values: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Mapping[str, Metric]]) -> float:
        """values[task][metric] -> one number. A metric where lower is better counts negative; normalized ones run 0 to 1."""
        found = []
        for task, name in self.terms:
            metric, value = metrics[task][name], values[task][name]
            if self.normalized:
                worst, best = metric.bounds
                value = (value - worst) / (best - worst)
            elif not metric.higher_is_better:
                value = -value
            found.append(value)
        return sum(found) / len(found)


def make_selection(
    select_by: str, metrics: Mapping[str, Mapping[str, Metric]], evaluated: list[str]
) -> Selection | None:
    """What `training.select_by` means for these tasks; None where no task has dev rows.

    Raises MtlError for a name that is neither `mean`, `normalized-mean` nor TASK.METRIC of a task with dev rows.
    """
    if select_by in ("mean", "normalized-mean"):
        terms = tuple((task, next(iter(metrics[task]))) for task in evaluated)
        unbounded = [f"{t}.{m}" for t, m in terms if not np.isfinite(metrics[t][m].bounds).all()]
        if select_by == "normalized-mean" and unbounded:
            raise MtlError(
                f"training.select_by: {one_of(unbounded)} has no bounds, so no normalized mean; use TASK.METRIC"
            )
        return Selection(terms, select_by == "normalized-mean") if terms else None
    known = [f"{task}.{metric}" for task in evaluated for metric in metrics[task]]
    if select_by not in known:
        task = select_by.split(".")[0]
        why = (
            f': task "{task}" has no dev rows'
            if task in metrics and task not in evaluated
            else suggest(select_by, known)
        )
        raise MtlError(f'training.select_by: found "{select_by}"{why} (or mean, or normalized-mean)')
    task, metric = select_by.split(".", 1)
    return Selection(((task, metric),), False)
