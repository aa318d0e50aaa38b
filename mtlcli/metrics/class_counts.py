"""Counts of each class in many resamples: what is right, labeled and predicted."""

from dataclasses import dataclass

import numpy as np

from mtlcli.tasks.class_matches import ClassMatches


@dataclass(frozen=True)
class ClassCounts:
    """Sum rows by class, for rows that are right, labeled and predicted.

    Statistics of each row and class would be a wide and mostly empty matrix.
    """

    right: "_RowsByClass"
    gold: "_RowsByClass"
    predicted: "_RowsByClass"

    @classmethod
    def of(cls, matches: ClassMatches) -> "ClassCounts":
        """Sort the pairs of rows and classes by class."""
        classes = len(matches.names)
        return cls(*(_RowsByClass.of(pairs, classes) for pairs in (matches.right, matches.gold, matches.predicted)))

    def sums(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return how often each class is right, labeled and predicted in each resample, three arrays (b, C) like `counts` (b, n)."""
        return self.right.sums(counts), self.gold.sums(counts), self.predicted.sums(counts)


@dataclass(frozen=True)
class _RowsByClass:
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
    def of(cls, pairs: np.ndarray, classes: int) -> "_RowsByClass":
        """Sort pairs of a row and a class (k, 2)."""
        order = np.argsort(pairs[:, 1], kind="stable")
        present, starts = np.unique(pairs[order, 1], return_index=True)
        return cls(pairs[order, 0], starts, present, classes)

    def sums(self, counts: np.ndarray) -> np.ndarray:
        """Return the sums of counts (b, n) over the rows of each class (b, C)."""
        sums = np.zeros((len(counts), self.classes), dtype=counts.dtype)
        if len(self.rows):
            # For an empty group, reduceat returns an entry of the next one, so only classes that occur are summed.
            sums[:, self.present] = np.add.reduceat(counts.take(self.rows, axis=1), self.starts, axis=1)
        return sums
