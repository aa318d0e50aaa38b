"""Metrics of all classes together: macro-F1, weighted F1 and Matthews' correlation coefficient."""

from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.tasks.label_sets import UNKNOWN
from mtlcli.tasks.targets import Arrays


class MacroF1(Metric):
    """Average F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in the resample, from 0 to 1.

    A class occurs if it is the label or the prediction of a row in the resample, as in scikit-learn's
    `f1_score(average="macro")`; other classes are left out of the mean and do not count as 0. A label that training never saw
    (-1) is a class of its own with F1 0, and in the mean wherever it occurs. Of sets of labels, each label is a class of its own;
    without any in the resample it is 0.
    """

    measures = frozenset({"classes", "ranks", "label-set"})

    def bind(self, predicted: Arrays, gold: Arrays) -> "MeanOfClasses":
        """Sort the rows by label and by prediction: with many classes, statistics of each row would be wide and empty."""
        return MeanOfClasses(*(_groups_of_sets if "set" in gold else _groups_of)(predicted, gold))


class WeightedF1(Metric):
    """Average the classes' F1, each weighted by its share of the labels in the resample, from 0 to 1.

    This is scikit-learn's `f1_score(average="weighted")`. A label that training never saw (-1) is a class with F1 0.
    """

    measures = frozenset({"classes", "ranks"})

    def bind(self, predicted: Arrays, gold: Arrays) -> "WeightedMeanOfClasses":
        """Sort the rows by label and by prediction."""
        return WeightedMeanOfClasses(*_groups_of(predicted, gold))


class Matthews(Metric):
    """Compute Matthews' correlation coefficient of several classes (Gorodkin, Computational Biology and Chemistry 2004), from -1 to 1.

    With c right rows of s, p_k predictions and t_k labels of class k it is
    `(c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))`, and 0 where all predictions or all labels are equal.
    """

    measures = frozenset({"classes", "ranks"})
    bounds = (-1.0, 1.0)

    def bind(self, predicted: Arrays, gold: Arrays) -> "ClassCorrelation":
        """Sort the rows by label and by prediction."""
        return ClassCorrelation(*_groups_of(predicted, gold))


def _groups_of(predicted: Arrays, gold: Arrays) -> tuple["_Groups", "_Groups", "_Groups"]:
    """Return the rows that are right, the rows by label and the rows by prediction."""
    occurring, indices = np.unique(np.stack((gold["index"], predicted["index"])), return_inverse=True)
    gold_class, predicted_class = indices.reshape(2, -1)
    right = np.flatnonzero(gold_class == predicted_class)
    rows = np.arange(len(gold))
    return (
        _Groups.of(gold_class[right], right, len(occurring)),
        _Groups.of(gold_class, rows, len(occurring)),
        _Groups.of(predicted_class, rows, len(occurring)),
    )


def _groups_of_sets(predicted: Arrays, gold: Arrays) -> tuple["_Groups", "_Groups", "_Groups"]:
    """Return the rows in which each label is right, in which it holds, and in which it is predicted; of those that say so."""
    sets = gold["set"]
    chosen, holds = (predicted["set"] == 1) & (sets != UNKNOWN), sets == 1
    unseen = gold["unseen"] > 0

    def groups(of_labels: np.ndarray, of_unseen: np.ndarray) -> _Groups:
        rows, labels = np.nonzero(np.column_stack([of_labels, of_unseen]))
        return _Groups.of(labels, rows, sets.shape[1] + 1)

    nowhere = np.zeros_like(unseen)
    return groups(chosen & holds, nowhere), groups(holds, unseen), groups(chosen, nowhere)


@dataclass(frozen=True)
class _Groups:
    """Rows sorted by class.

    Attributes:
        rows: row numbers in that order.
        starts: where each class of `present` begins among them.
        classes: number of classes.
    """

    rows: np.ndarray
    starts: np.ndarray
    present: np.ndarray
    classes: int

    @classmethod
    def of(cls, indices: np.ndarray, rows: np.ndarray, classes: int) -> "_Groups":
        """Sort rows (m,) by their class indices (m,)."""
        present, starts = np.unique(np.sort(indices), return_index=True)
        return cls(rows[np.argsort(indices, kind="stable")], starts, present, classes)

    def sums(self, counts: np.ndarray) -> np.ndarray:
        """Return how many rows of each resample have each class (b, classes) int64."""
        sums = np.zeros((len(counts), self.classes), dtype=np.int64)
        if len(self.rows):
            sums[:, self.present] = np.add.reduceat(counts.take(self.rows, axis=1), self.starts, axis=1)
        return sums


@dataclass(frozen=True)
class ClassCounts:
    """Rows that are right, rows by label and rows by prediction."""

    right: _Groups
    gold: _Groups
    predicted: _Groups


class MeanOfClasses(ClassCounts):
    """Macro-F1 of certain predictions."""

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return macro-F1 of each resample (b,)."""
        mentions = self.gold.sums(counts) + self.predicted.sums(counts)
        f1 = 2 * self.right.sums(counts) / np.maximum(mentions, 1)
        return f1.sum(axis=1) / np.maximum((mentions > 0).sum(axis=1), 1)


class WeightedMeanOfClasses(ClassCounts):
    """Weighted F1 of certain predictions."""

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return weighted F1 of each resample (b,)."""
        labels = self.gold.sums(counts)
        f1 = 2 * self.right.sums(counts) / np.maximum(labels + self.predicted.sums(counts), 1)
        return (f1 * labels).sum(axis=1) / labels.sum(axis=1)


class ClassCorrelation(ClassCounts):
    """Matthews' correlation coefficient of certain predictions."""

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the coefficient of each resample (b,)."""
        labels, predictions = (groups.sums(counts).astype(np.float64) for groups in (self.gold, self.predicted))
        rows, right = labels.sum(axis=1), self.right.sums(counts).sum(axis=1)
        covariance = right * rows - (predictions * labels).sum(axis=1)
        spreads = (rows**2 - (predictions**2).sum(axis=1)) * (rows**2 - (labels**2).sum(axis=1))
        return np.divide(covariance, np.sqrt(spreads), out=np.zeros(len(counts)), where=spreads > 0).clip(-1, 1)
