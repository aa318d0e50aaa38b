"""Accuracy: the share of rows whose class, or whose right choice, was predicted."""

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays


class Accuracy(Decomposed):
    """Divide the rows with the right class or choice by all rows, from 0 to 1.

    A row whose label training never saw is always wrong.
    """

    measures = frozenset({"choice", "classes"})
    is_proportion = True

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right, 1)."""
        right = right_choices(predicted, gold) if "chosen" in gold else predicted["index"] == gold["index"]
        return np.stack([right, np.ones_like(right)], axis=1).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return right / rows."""
        return totals[:, 0] / totals[:, 1]


def right_choices(predicted: Arrays, gold: Arrays) -> np.ndarray:
    """Return in which rows the right choice was predicted (n,) bool."""
    hits = (predicted["chosen"] == 1) & (gold["chosen"] == 1)
    before = np.concatenate([np.zeros(1, dtype=np.int64), hits.cumsum()])
    return np.diff(before[gold.starts]) > 0
