"""Accuracy: the share of rows whose class, or whose right choice, was predicted."""

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays


class Accuracy(Decomposed):
    """Divide the rows with the right class or choice by all rows, from 0 to 1.

    A row whose label training never saw is always wrong. Of a label that is a distribution, each of its most probable classes is right.
    """

    measures = frozenset({"choice", "classes", "distribution", "ranks"})
    is_proportion = True

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right, 1)."""
        if "chosen" in gold:
            right = right_choices(predicted, gold)
        elif "probabilities" in gold:
            # NaN is a row without a label, and a metric is never NaN.
            labels = np.nan_to_num(gold["probabilities"])
            # Equal shares can differ by rounding, such as 0.1 + 0.2 of two merged columns and 0.3.
            right = labels[np.arange(len(labels)), predicted["index"]] >= labels.max(axis=1) - 1e-9
        else:
            right = predicted["index"] == gold["index"]
        return np.stack([right, np.ones_like(right)], axis=1).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return right / rows."""
        return totals[:, 0] / totals[:, 1]


def right_choices(predicted: Arrays, gold: Arrays) -> np.ndarray:
    """Return in which rows the right choice was predicted (n,) bool."""
    hits = (predicted["chosen"] == 1) & (gold["chosen"] == 1)
    # Differences of a running count, because reduceat gives a row without choices the first entry of the next row.
    before = np.concatenate([np.zeros(1, dtype=np.int64), hits.cumsum()])
    return np.diff(before[gold.starts]) > 0
