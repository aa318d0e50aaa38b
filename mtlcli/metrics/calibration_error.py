"""Expected calibration error (Guo, Pleiss, Sun and Weinberger, ICML 2017, arXiv:1706.04599, equation 3)."""

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays

BINS = 15
"""Bins of equal width, as in the paper."""


class CalibrationError(Decomposed):
    """Average |accuracy - confidence| over 15 bins of confidence, weighted by their rows, from 0 (best) to 1.

    Confidence is the probability of the predicted class; a prediction without probabilities counts as certain.
    """

    measures = frozenset({"classes", "ranks"})
    higher_is_better = False
    bounds = (1.0, 0.0)

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right - confidence) in the column of the row's bin, and 1 in the last column."""
        rows = np.arange(len(gold))
        confidence = np.ones(len(gold))
        if "probabilities" in predicted:
            confidence = predicted["probabilities"][rows, predicted["index"]].astype(np.float64)
        statistics = np.zeros((len(gold), BINS + 1))
        # Bins are open below and closed above, so that a confidence of 1 is in the last one.
        bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        statistics[rows, bins] = (predicted["index"] == gold["index"]) - confidence
        statistics[:, BINS] = 1
        return statistics

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the sum of the bins' differences / rows."""
        return np.abs(totals[:, :BINS]).sum(axis=1) / totals[:, BINS]
