"""Metrics of ordered classes: agreement that counts how far off a class is."""

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays


class QuadraticWeightedKappa(Decomposed):
    """Compute 1 - sum w O / sum w E with w_ij = (i - j)^2 (Cohen 1968), from -1 to 1; 0 is the agreement of chance.

    O counts the pairs of label i and prediction j, and E what their margins alone would give. It is 0 where the margins leave no
    disagreement to expect, such as one class for labels and predictions.
    """

    measures = frozenset({"ranks"})
    bounds = (-1.0, 1.0)

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (label, prediction, label^2, prediction^2, squared difference, 1) of class numbers."""
        label, guess = gold["index"].astype(np.float64), predicted["index"].astype(np.float64)
        return np.stack([label, guess, label**2, guess**2, (label - guess) ** 2, np.ones_like(label)], axis=1)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the kappa: E has the sum of (i - j)^2 over all pairs of a label and a prediction, divided by the rows."""
        labels, guesses, squares, guess_squares, observed, rows = totals.T
        # The usual divisor (C - 1)^2 of w cancels in the ratio.
        expected = squares + guess_squares - 2 * labels * guesses / rows
        # With fractional weights, the expected disagreement of one class is a rounding error instead of 0.
        disagreement = np.divide(observed, expected, out=np.ones(len(totals)), where=expected > 1e-12 * rows)
        return 1 - disagreement


class WithinOne(Decomposed):
    """Return the share of rows whose class is at most one off, from 0 to 1."""

    measures = frozenset({"ranks"})
    is_proportion = True

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (at most one off, 1)."""
        near = np.abs(predicted["index"] - gold["index"]) <= 1
        return np.stack([near, np.ones_like(near)], axis=1).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the rows at most one off / rows."""
        return totals[:, 0] / totals[:, 1]
