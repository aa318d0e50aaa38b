"""Accuracy: the share of rows whose class was predicted."""

import numpy as np

from mtlcli.metrics.base import Metric


class Accuracy(Metric):
    """Rows with the right class over all rows, from 0 to 1.

    A target of -1 stands for a label that training never saw: the row counts, and is always wrong.
    """

    measures = "classes"

    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """predictions (n,) and targets (n,) class indices, counts (b, n) -> accuracies (b,)."""
        return counts @ (predictions == targets) / counts.sum(axis=1)
