"""Macro-F1: the mean of the classes' F1, in which a rare class weighs as much as a frequent one."""

from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.tasks.targets import Arrays


class MacroF1(Metric):
    """Average F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in the resample, from 0 to 1.

    A class occurs if it is the label or the prediction of a row in the resample, as in scikit-learn's
    `f1_score(average="macro")`; other classes are left out of the mean and do not count as 0. A label that training never saw
    (-1) is a class of its own with F1 0, and in the mean wherever it occurs.
    """

    measures = frozenset({"classes"})

    def bind(self, predicted: Arrays, gold: Arrays) -> "ClassCounts":
        """Sort the rows by label and by prediction: with many classes, statistics of each row would be wide and empty."""
        occurring, indices = np.unique(np.stack((gold["index"], predicted["index"])), return_inverse=True)
        gold_class, predicted_class = indices.reshape(2, -1)
        right = np.flatnonzero(gold_class == predicted_class)
        rows = np.arange(len(gold))
        return ClassCounts(
            _Groups.of(gold_class[right], right, len(occurring)),
            _Groups.of(gold_class, rows, len(occurring)),
            _Groups.of(predicted_class, rows, len(occurring)),
        )


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
    """Macro-F1 of certain predictions: rows that are right, rows by label and rows by prediction."""

    right: _Groups
    gold: _Groups
    predicted: _Groups

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return macro-F1 of each resample (b,)."""
        mentions = self.gold.sums(counts) + self.predicted.sums(counts)
        f1 = 2 * self.right.sums(counts) / np.maximum(mentions, 1)
        return f1.sum(axis=1) / (mentions > 0).sum(axis=1)
