"""Metrics of one class, the positive one: F1, precision, recall, area under the ROC curve, average precision."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric, Resampled, Statistics
from mtlcli.metrics.class_counts import ClassCounts
from mtlcli.metrics.class_metrics import counts_of
from mtlcli.metrics.ratio import ratio
from mtlcli.tasks.targets import Arrays, Classes


def _label(value: Any) -> Any:
    """Return the text for a number, because the name of a class may be one."""
    # A bool is an int in Python, and `positive: true` must not become the name "True".
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Positive = Annotated[
    str | None,
    BeforeValidator(_label),
    Field(description="the positive class; the default is the one that tasks.NAME.positive names"),
]
Average = Annotated[
    Literal["binary", "macro", "weighted"],
    Field(
        description="binary: of the positive class; macro: the mean over the classes that occur; weighted: their mean, weighted by "
        "their rows"
    ),
]


def positive_class(task: TaskFacts, positive: str | None = None) -> int:
    """Return the index of the positive class of a task.

    Args:
        positive: the class, if an option of the metric names it.

    Raises:
        MtlError: no class is positive.
    """
    where, target = f"tasks.{task.name}", task.target
    if not isinstance(target, Classes):
        raise MtlError(f"{where}.metrics: a metric of one class, and this task predicts {target.describe()}")
    if positive is not None:
        where = f"{where}.metrics"
        return target.with_positive(positive, where).positive_index(where)
    return target.positive_index(where)


class ClassMetric(Metric):
    """Measure a ratio of true positives, false positives and false negatives, of the positive class or on average."""

    measures = frozenset({"classes"})

    def __init__(self, task: TaskFacts, *, positive: Positive = None, average: Average = "binary") -> None:
        super().__init__(task)
        if average != "binary" and positive is not None:
            raise MtlError(f"tasks.{task.name}.metrics: positive excludes average: {average}; remove one of them")
        self.average = average
        self.positive = positive_class(task, positive) if average == "binary" else -1

    @abstractmethod
    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the ratio (m,) of true positives, false positives and false negatives (m, 3); 0 where it is undefined."""

    def bind(self, predicted: Arrays, gold: Arrays) -> Resampled:
        """Count the positive class in each row, or sort the rows by class."""
        if self.average != "binary":
            return AveragedRatio(self, counts_of(predicted, gold))
        predicted_positive, true = predicted["index"] == self.positive, gold["index"] == self.positive
        counts = np.stack([predicted_positive & true, predicted_positive & ~true, ~predicted_positive & true], axis=1)
        return Statistics(counts.astype(np.float64), self.score)


@dataclass(frozen=True)
class AveragedRatio:
    """The mean of a ratio over the classes that are labels or predictions of a resample."""

    metric: ClassMetric
    classes: ClassCounts

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the mean of each resample (b,)."""
        right, labels, predictions = self.classes.sums(counts)
        totals = np.stack([right, predictions - right, labels - right], axis=-1)
        # (b, C, 3), which `score` takes as (b * C, 3).
        of_classes = self.metric.score(totals.reshape(-1, 3).astype(np.float64)).reshape(right.shape)
        weights = labels if self.metric.average == "weighted" else labels + predictions > 0
        # Every row has a label and a prediction, so the sum of the weights is above 0.
        return (of_classes * weights).sum(axis=1) / weights.sum(axis=1)


class F1(ClassMetric):
    """Compute F1 = 2 TP / (2 TP + FP + FN) of the positive class, from 0 to 1; 0 where it is undefined.

    With `average` it is the same as `macro-f1` or `weighted-f1`.
    """

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return F1."""
        return ratio(2 * totals[:, 0], 2 * totals[:, 0] + totals[:, 1] + totals[:, 2])


class Precision(ClassMetric):
    """Compute TP / (TP + FP) of the positive class, from 0 to 1; 0 where it is never predicted."""

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the precision."""
        return ratio(totals[:, 0], totals[:, 0] + totals[:, 1])


class Recall(ClassMetric):
    """Compute TP / (TP + FN) of the positive class, from 0 to 1; 0 where no row has it.

    With `average: weighted` it is the accuracy; with `macro`, the balanced accuracy, as long as every predicted class is the label
    of a row.
    """

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the recall."""
        return ratio(totals[:, 0], totals[:, 0] + totals[:, 2])


class RankedMetric(Metric):
    """Measure how well the probability of the positive class ranks the rows."""

    measures = frozenset({"classes"})
    reads_probabilities = True

    def __init__(self, task: TaskFacts, *, positive: Positive = None) -> None:
        super().__init__(task)
        self.positive = positive_class(task, positive)

    def ranking(self, predicted: Arrays, gold: Arrays) -> "Ranking":
        """Sort the rows once. A prediction without probabilities counts as certain."""
        if "probabilities" in predicted:
            scores = predicted["probabilities"][:, self.positive].astype(np.float64)
        else:
            scores = (predicted["index"] == self.positive).astype(np.float64)
        order = np.argsort(-scores, kind="stable")
        # Rows with equal scores are one group, so the order among them has no effect.
        starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
        return Ranking(order, starts, (gold["index"] == self.positive)[order])


class RocAuc(RankedMetric):
    """Compute the area under the ROC curve (Fawcett, Pattern Recognition Letters 2006), from 0 to 1.

    It is the probability that a positive row has a higher score than another one, ties counting half. Where a resample lacks
    either kind of row it is undefined, and 0.5.
    """

    def bind(self, predicted: Arrays, gold: Arrays) -> "RocCurve":
        """Sort the rows by the probability of the positive class."""
        return RocCurve(self.ranking(predicted, gold))


class AveragePrecision(RankedMetric):
    """Compute sum_j (R_j - R_{j-1}) P_j over the distinct scores, with precision P_j and recall R_j down to score j, from 0 to 1.

    That is the area under the steps of the precision-recall curve, without interpolation. It is 0 where no row is positive.
    """

    def bind(self, predicted: Arrays, gold: Arrays) -> "PrecisionRecallCurve":
        """Sort the rows by the probability of the positive class."""
        return PrecisionRecallCurve(self.ranking(predicted, gold))


@dataclass(frozen=True)
class Ranking:
    """Rows by falling score (n,), where each group of equal scores begins among them (g,), and which are positive (n,) bool."""

    order: np.ndarray
    starts: np.ndarray
    positive: np.ndarray

    def counts(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positive and the other rows of each group in each resample (b, g) float64."""
        ordered = counts.take(self.order, axis=1).astype(np.float64)
        positive = np.add.reduceat(ordered * self.positive, self.starts, axis=1)
        return positive, np.add.reduceat(ordered, self.starts, axis=1) - positive


@dataclass(frozen=True)
class RocCurve:
    """The area under the ROC curve of certain predictions."""

    ranking: Ranking

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the area of each resample (b,)."""
        positive, negative = self.ranking.counts(counts)
        # Negative rows with a lower score than each group. Those in the group itself are ties, which count half.
        below = negative.sum(axis=1, keepdims=True) - negative.cumsum(axis=1)
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        area = (positive * (below + negative / 2)).sum(axis=1)
        # Rounding of fractional counts can exceed 1.
        return np.divide(area, pairs, out=np.full(len(counts), 0.5), where=pairs > 0).clip(0, 1)


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """The average precision of certain predictions."""

    ranking: Ranking

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the average precision of each resample (b,)."""
        positive, negative = self.ranking.counts(counts)
        true = positive.cumsum(axis=1)
        predicted = true + negative.cumsum(axis=1)
        # A resample can lack all rows of the first groups.
        precision = np.divide(true, predicted, out=np.zeros_like(true), where=predicted > 0)
        # Fractional weights can leave a sum above 1 by rounding.
        return ratio((positive * precision).sum(axis=1), true[:, -1]).clip(0, 1)
