"""Macro-F1: the mean over classes of F1, so that a rare class weighs as much as a frequent one."""

import numpy as np

from mtlcli.metrics.base import Metric


class MacroF1(Metric):
    """Mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in the resample, from 0 to 1.

    A class occurs if it is a target or a prediction of a row in the resample, as in scikit-learn's
    `f1_score(average="macro")`; a class that is in neither is left out of the mean and does not count as 0. A target of
    -1 stands for a label that training never saw: a class of its own, with F1 0, in the mean wherever it occurs.
    """

    measures = "classes"

    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """predictions (n,) and targets (n,) class indices, counts (b, n) -> macro-F1 (b,)."""
        occurring, indices = np.unique(np.stack((targets, predictions)), return_inverse=True)
        target, prediction = indices.reshape(2, -1)
        right = target == prediction
        hits = _rows_per_class(target[right], counts[:, right], len(occurring))
        mentions = _rows_per_class(target, counts, len(occurring)) + _rows_per_class(prediction, counts, len(occurring))
        f1 = 2 * hits / np.maximum(mentions, 1)
        return f1.sum(axis=1) / (mentions > 0).sum(axis=1)


def _rows_per_class(indices: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
    """indices (n,) in 0..classes-1, counts (b, n) -> how many rows of resample b have class c (b, c)."""
    cells = np.arange(len(counts))[:, None] * classes + indices
    return np.bincount(cells.ravel(), counts.ravel(), len(counts) * classes).reshape(len(counts), classes)
