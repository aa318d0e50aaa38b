"""Build the metrics of a task, measure predictions with intervals, and compute the score that selects a checkpoint."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtlcli.config.schema import MetricChoice, TaskConfig
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric
from mtlcli.statistics.bootstrap import Estimate, estimate, value_of
from mtlcli.statistics.groups import RowGroups
from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Arrays, Target

MetricSpec = MetricChoice | str | Mapping[str, Any]
"""A metric as a recipe selects it: by name, or with options."""


def metrics_of(section: TaskConfig, task: Task, target: Target) -> tuple[MetricSpec, ...]:
    """Return the metrics of a task: those of its configuration, or else those of its kind for a fitted target."""
    return tuple(section.metrics or task.metrics_of(target))


def make_metrics(
    metrics: Sequence[MetricSpec], task: TaskFacts, where: str, precision: str = "fp32", *, weighted: bool = False
) -> dict[str, Metric]:
    """Build the metrics of a task by title, the primary one first.

    Args:
        where: the key of the metrics, for messages.
        precision: precision in which the model predicts.
        weighted: count each row by its weight.

    Raises:
        MtlError: a metric is unknown, measures another kind of prediction, or does not accept an option.
    """
    by_title: dict[str, Metric] = {}
    for spec in metrics:
        choice = MetricChoice.model_validate(spec)
        if errors := choice.check(where):
            raise MtlError(*(f"{where}: {option}: {message}" for option, message in errors))
        if task.target.kind not in choice.plugin.measures:
            kinds = one_of(sorted(choice.plugin.measures))
            raise MtlError(
                f'{where}: "{choice.name}" measures {kinds}, and this task predicts {task.target.describe()}'
            )
        metric: Metric = choice.make(task)
        metric.precision, metric.weighted = precision, weighted
        by_title[choice.title(weighted=weighted)] = metric
    return by_title


def measure(
    metrics: Mapping[str, Metric], predicted: Arrays, gold: Arrays, resamples: int, groups: RowGroups | None = None,
    weights: np.ndarray | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """Return every metric with its 95 % interval; low and high equal the value if `resamples` is 0.

    Args:
        groups: groups of rows that are resampled as a whole.
        weights: (n,), weights of the rows, which only weighted metrics read. Rows of weight 0 are left out.
    """
    weights_of = {title: weights if metric.weighted else None for title, metric in metrics.items()}
    if resamples:
        return {
            title: estimate(metric, predicted, gold, groups=groups, weights=weights_of[title], resamples=resamples)
            for title, metric in metrics.items()
        }
    # Evaluations during training need the value alone.
    values = {title: value_of(metric, predicted, gold, weights_of[title]) for title, metric in metrics.items()}
    return {title: Estimate(value, value, value, len(gold), interval="none") for title, value in values.items()}


@dataclass(frozen=True)
class Selection:
    """Hold the (task, metric) pairs whose mean is the score of a checkpoint; higher is better."""

    terms: tuple[tuple[str, str], ...]
    normalized: bool

    def score(self, values: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Mapping[str, Metric]]) -> float:
        """Return the score for values by task and metric.

        A normalized value runs from 0, the metric's worst value, to 1. Otherwise a metric of which lower values are better counts
        with a negative sign.
        """
        scores = []
        for task, title in self.terms:
            metric, value = metrics[task][title], values[task][title]
            if self.normalized:
                # The worst bound comes first, so a metric of which lower is better needs no sign here.
                worst, best = metric.bounds
                value = (value - worst) / (best - worst)
            elif not metric.higher_is_better:
                value = -value
            scores.append(value)
        return sum(scores) / len(scores)


def make_selection(
    select_by: str, metrics: Mapping[str, Mapping[str, Metric]], evaluated: list[str], auxiliary: Collection[str] = ()
) -> Selection | None:
    """Return the selection that `training.select_by` describes; None if no task has dev rows.

    Args:
        select_by: `mean`, `normalized-mean`, or TASK.METRIC.
        metrics: metrics by task and title.
        evaluated: tasks with dev rows.
        auxiliary: tasks that do not count, none of which is in `evaluated`.

    Raises:
        MtlError: `select_by` is neither of the means nor a metric of a task with dev rows, or a metric has no bounds to normalize by.
    """
    if select_by in ("mean", "normalized-mean"):
        terms = tuple((task, next(iter(metrics[task]))) for task in evaluated)
        unbounded = [f"{task}.{title}" for task, title in terms if not np.isfinite(metrics[task][title].bounds).all()]
        if select_by == "normalized-mean" and unbounded:
            raise MtlError(
                f"training.select_by: {one_of(unbounded)} has no bounds, so no normalized mean; use TASK.METRIC"
            )
        return Selection(terms, select_by == "normalized-mean") if terms else None
    choices = [f"{task}.{title}" for task in evaluated for title in metrics[task]]
    if select_by not in choices:
        task = select_by.split(".")[0]
        if task in auxiliary:
            why = f': task "{task}" is auxiliary and does not count'
        elif task in metrics and task not in evaluated:
            why = f': task "{task}" has no dev rows'
        else:
            why = suggest(select_by, choices)
        raise MtlError(f'training.select_by: found "{select_by}"{why} (or mean, or normalized-mean)')
    task, title = select_by.split(".", 1)
    return Selection(((task, title),), False)
