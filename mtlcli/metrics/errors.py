"""Errors of predicted scores: mean squared, root mean squared, mean absolute, and the share of the variance explained."""

import math
from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Decomposed, Metric
from mtlcli.tasks.targets import Arrays


class MeanSquaredError(Decomposed):
    """Average (prediction - label)^2 over rows, in squared units of the data; 0 is best and there is no worst."""

    measures = frozenset({"score"})
    higher_is_better = False
    bounds = (math.inf, 0.0)

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (squared error, 1)."""
        errors = (predicted["value"] - gold["value"]) ** 2
        return np.stack([errors, np.ones_like(errors)], axis=1)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the sum of squared errors / rows."""
        return totals[:, 0] / totals[:, 1]


class RootMeanSquaredError(MeanSquaredError):
    """Take the root of the mean of (prediction - label)^2 over rows, in units of the data; 0 is best and there is no worst."""

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the root of the mean squared error."""
        return np.sqrt(totals[:, 0] / totals[:, 1])


class MeanAbsoluteError(Decomposed):
    """Average |prediction - label| over rows, in units of the data or in classes of an order; 0 is best and there is no worst."""

    measures = frozenset({"ranks", "score"})
    higher_is_better = False
    bounds = (math.inf, 0.0)

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (absolute error, 1)."""
        name = "value" if "value" in gold else "index"
        errors = np.abs(predicted[name] - gold[name]).astype(np.float64)
        return np.stack([errors, np.ones_like(errors)], axis=1)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the sum of absolute errors / rows."""
        return totals[:, 0] / totals[:, 1]


class R2(Metric):
    """Compute the coefficient of determination, 1 - sum (label - prediction)^2 / sum (label - mean label)^2; 1 is best.

    It is 0 for the mean label as prediction, has no lower bound, and is 0 where all labels of the resample are equal.
    """

    measures = frozenset({"score"})
    bounds = (-math.inf, 1.0)

    def bind(self, predicted: Arrays, gold: Arrays) -> "Explained":
        """Compute the squared errors once."""
        # Without the mean, a large offset that the labels share would cost digits.
        return Explained((predicted["value"] - gold["value"]) ** 2, gold["value"] - gold["value"].mean())


@dataclass(frozen=True)
class Explained:
    """R2 of squared errors (n,) and labels (n,)."""

    errors: np.ndarray
    labels: np.ndarray

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return R2 of each resample (b,)."""
        weights = counts.astype(np.float64)
        means = (weights @ self.labels) / weights.sum(axis=1)
        deviations = weights @ self.labels**2 - weights.sum(axis=1) * means**2
        # Labels of one value leave a rounding error of their squares.
        varied = deviations > 1e-12 * np.maximum(weights @ self.labels**2, 1e-300)
        # The initial value 1 in `out` gives an R2 of 0.
        explained = np.divide(weights @ self.errors, deviations, out=np.ones(len(counts)), where=varied)
        return 1 - explained
