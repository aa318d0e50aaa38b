"""Exact match: the share of rows whose prediction is the label, scores compared as whole numbers."""

import numpy as np

from mtlcli.metrics.base import Metric


class ExactMatch(Metric):
    """Rows whose predicted score and label round to the same whole number (a half rounds up) over all rows, from 0 to 1.

    LB 5.2 measures similarity by "EM" and does not define it; a label such as 3.8 is hardly ever hit exactly, hence the
    rounding. What its Table 1 calls EM seems to be the Pearson correlation of the leaderboard: accuracy, accuracy and that number
    average to the total it gives.
    """

    measures = "scores"

    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """predictions (n,) and targets (n,) scores, counts (b, n) -> shares (b,)."""
        return counts @ (np.floor(predictions + 0.5) == np.floor(targets + 0.5)) / counts.sum(axis=1)
