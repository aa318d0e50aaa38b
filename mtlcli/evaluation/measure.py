"""From a model and labelled rows to predictions, metrics with intervals, and the one number that selects a checkpoint."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from mtlcli import registry
from mtlcli.config.schema import TaskConfig
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric
from mtlcli.statistics.bootstrap import Estimate, estimate
from mtlcli.statistics.groups import RowGroups
from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Arrays, Target


def chosen_metrics(section: TaskConfig, task: Task, target: Target) -> tuple[str, ...]:
    """Return the names of a task's metrics: those of its configuration, else those of its kind for a fitted target."""
    return tuple(section.metrics or task.metrics_of(target))


def make_metrics(names: tuple[str, ...], task: TaskFacts, where: str, precision: str = "fp32") -> dict[str, Metric]:
    """Build the metrics of a task by name, the primary one first, for predictions made in `precision`.

    Raises:
        MtlError: a metric measures another kind of prediction.
    """
    found: dict[str, Metric] = {}
    for name in names:
        metric: type[Metric] = registry.load("metrics", name, where)
        if task.target.kind not in metric.measures:
            kinds = one_of(sorted(metric.measures))
            raise MtlError(f'{where}: "{name}" measures {kinds}, and this task predicts {task.target.describe()}')
        found[name] = metric(task)
        found[name].precision = precision
    return found


def measure(
    metrics: Mapping[str, Metric], predicted: Arrays, gold: Arrays, resamples: int, groups: RowGroups | None = None
) -> dict[str, Estimate]:
    """Return every metric with its 95 % interval; low and high equal the value if `resamples` is 0.

    `groups` are resampled as a whole.
    """
    if resamples:
        return {
            name: estimate(metric, predicted, gold, groups=groups, resamples=resamples)
            for name, metric in metrics.items()
        }
    values = {name: metric.value(predicted, gold) for name, metric in metrics.items()}
    return {name: Estimate(value, value, value, len(gold), interval="none") for name, value in values.items()}


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
    select_by: str, metrics: Mapping[str, Mapping[str, Metric]], evaluated: list[str], auxiliary: Collection[str] = ()
) -> Selection | None:
    """What `training.select_by` means for these tasks; None where no task has dev rows.

    `auxiliary` are the tasks that do not count, none of which is in `evaluated`.

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
        if task in auxiliary:
            why = f': task "{task}" is auxiliary and does not count'
        elif task in metrics and task not in evaluated:
            why = f': task "{task}" has no dev rows'
        else:
            why = suggest(select_by, known)
        raise MtlError(f'training.select_by: found "{select_by}"{why} (or mean, or normalized-mean)')
    task, metric = select_by.split(".", 1)
    return Selection(((task, metric),), False)
