"""Metrics of one class, the positive one: F1, precision, recall, area under the ROC curve, average precision."""

from dataclasses import dataclass

import numpy as np

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Decomposed, Metric
from mtlcli.tasks.targets import Arrays, Classes


def positive_class(task: TaskFacts) -> int:
    """Return the index of the positive class of a task.

    Raises:
        MtlError: no class is said to be it.
    """
    where = f"tasks.{task.name}"
    if not isinstance(task.target, Classes):
        raise MtlError(f"{where}.metrics: a metric of one class, and this task predicts {task.target.describe()}")
    return task.target.positive_index(where)


class PositiveCounts(Decomposed):
    """Count rows that are right, wrong and missed, of the positive class."""

    measures = frozenset({"classes"})

    def __init__(self, task: TaskFacts) -> None:
        super().__init__(task)
        self.positive = positive_class(task)

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (true positive, false positive, false negative)."""
        chosen, true = predicted["index"] == self.positive, gold["index"] == self.positive
        return np.stack([chosen & true, chosen & ~true, ~chosen & true], axis=1).astype(np.float64)


class F1(PositiveCounts):
    """Compute F1 = 2 TP / (2 TP + FP + FN) of the positive class (`tasks.NAME.positive`), from 0 to 1; 0 where it is undefined."""

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return F1."""
        return quotient(2 * totals[:, 0], 2 * totals[:, 0] + totals[:, 1] + totals[:, 2])


class Precision(PositiveCounts):
    """Compute TP / (TP + FP) of the positive class (`tasks.NAME.positive`), from 0 to 1; 0 where it is never predicted."""

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the precision."""
        return quotient(totals[:, 0], totals[:, 0] + totals[:, 1])


class Recall(PositiveCounts):
    """Compute TP / (TP + FN) of the positive class (`tasks.NAME.positive`), from 0 to 1; 0 where no row has it."""

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the recall."""
        return quotient(totals[:, 0], totals[:, 0] + totals[:, 2])


class RankedMetric(Metric):
    """Measure how well the probability of the positive class ranks the rows."""

    measures = frozenset({"classes"})
    ranks = True

    def __init__(self, task: TaskFacts) -> None:
        super().__init__(task)
        self.positive = positive_class(task)

    def ranking(self, predicted: Arrays, gold: Arrays) -> "Ranking":
        """Sort the rows once. A prediction without probabilities counts as certain."""
        if "probabilities" in predicted:
            scores = predicted["probabilities"][:, self.positive].astype(np.float64)
        else:
            scores = (predicted["index"] == self.positive).astype(np.float64)
        order = np.argsort(-scores, kind="stable")
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
        below = negative.sum(axis=1, keepdims=True) - negative.cumsum(axis=1)
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        area = (positive * (below + negative / 2)).sum(axis=1)
        return np.divide(area, pairs, out=np.full(len(counts), 0.5), where=pairs > 0)


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """The average precision of certain predictions."""

    ranking: Ranking

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the average precision of each resample (b,)."""
        positive, negative = self.ranking.counts(counts)
        true = positive.cumsum(axis=1)
        predicted = true + negative.cumsum(axis=1)
        precision = np.divide(true, predicted, out=np.zeros_like(true), where=predicted > 0)
        return quotient((positive * precision).sum(axis=1), true[:, -1]).clip(0, 1)


def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, 0 where that is undefined."""
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
