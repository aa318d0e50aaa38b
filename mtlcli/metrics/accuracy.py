"""Accuracy: the share of rows whose class was predicted."""

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays


class Accuracy(Decomposed):
    """Divide the rows with the right class by all rows, from 0 to 1. A row whose label training never saw is always wrong."""

    measures = frozenset({"classes"})
    is_proportion = True

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right, 1)."""
        right = predicted["index"] == gold["index"]
        return np.stack([right, np.ones_like(right)], axis=1).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return right / rows."""
        return totals[:, 0] / totals[:, 1]
