"""Which classes the rows of a split have, are predicted to have, and have rightly."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassMatches:
    """Hold pairs of a row and a class, by which precision and recall of each class are measured.

    A row can have several classes, such as the labels of a set, and a class several times, such as the types of its spans.

    Attributes:
        names: names of the classes in index order.
        gold: (k, 2) int64, row and class of everything that is labeled.
        predicted: (k, 2) int64, row and class of everything that is predicted.
        right: (k, 2) int64, row and class of everything that is predicted and right; part of both others.
    """

    names: tuple[str, ...]
    gold: np.ndarray
    predicted: np.ndarray
    right: np.ndarray

    @classmethod
    def of_items(
        cls, names: tuple[str, ...], rows: np.ndarray, gold: np.ndarray, predicted: np.ndarray, known: np.ndarray
    ) -> "ClassMatches":
        """Return the matches of items that have one class each.

        Args:
            rows: (m,), the row of each item.
            gold: (m,), its class.
            predicted: (m,), the class that is predicted for it.
            known: (m,) bool, whether its class is one of `names`; if not, the prediction is wrong.
        """
        right = known & (gold == predicted)
        return cls(names, pairs(rows[known], gold[known]), pairs(rows, predicted), pairs(rows[right], predicted[right]))


def pairs(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return rows (k,) and classes (k,) as pairs (k, 2) int64."""
    return np.stack([rows, classes], axis=1).astype(np.int64)
