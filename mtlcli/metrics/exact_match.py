"""Exact match: the share of rows whose predicted score is the label, both compared as whole numbers."""

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays


class ExactMatch(Decomposed):
    """Divide the rows whose predicted score and label round to the same whole number (.5 rounds up) by all rows, from 0 to 1.

    Lozano and Bravo 2023, section 5.2, measure similarity by "EM" without a definition; a label like 3.8 is hardly ever predicted
    exactly, therefore the rounding. EM in their Table 1 seems to be the Pearson correlation of the leaderboard: accuracy, accuracy
    and that number average to the total in the table.
    """

    measures = frozenset({"score"})
    is_proportion = True

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (equal, 1)."""
        # Not np.round, which rounds .5 to the even number.
        equal = np.floor(predicted["value"] + 0.5) == np.floor(gold["value"] + 0.5)
        return np.stack([equal, np.ones_like(equal)], axis=1).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return equal / rows."""
        return totals[:, 0] / totals[:, 1]
