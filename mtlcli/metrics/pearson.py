"""Pearson's correlation coefficient r."""

from dataclasses import dataclass

import numpy as np

from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import are_constant
from mtlcli.tasks.targets import Arrays


class Pearson(Metric):
    """Divide the covariance of predictions and labels by the product of their standard deviations, from -1 to 1.

    r is undefined where all predictions or all labels of the resample are equal, as in a single row; it is 0 there. Equal means
    within the rounding of the model, see `mtlcli.metrics.rounding`.
    """

    measures = frozenset({"score"})
    bounds = (-1.0, 1.0)

    def bind(self, predicted: Arrays, gold: Arrays) -> "ScorePairs":
        """Keep the scores. r is no function of sums over rows that would not lose digits where the mean is large."""
        return ScorePairs(predicted["value"], gold["value"], self.task, self.precision)


@dataclass(frozen=True)
class ScorePairs:
    """Pearson's r of predicted (n,) and gold (n,) scores."""

    predicted: np.ndarray
    gold: np.ndarray
    task: TaskFacts
    precision: str

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return r of each resample (b,)."""
        r = correlation(_deviations(self.predicted, counts), _deviations(self.gold, counts), counts)
        for scores in (self.predicted, self.gold):
            r[are_constant(scores, counts, self.task, self.precision)] = 0.0
        return r


def correlation(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return r (b,) of first (b, n) and second (b, n), both with mean 0 in each resample; 0 where either is all 0."""
    weighted = counts * first
    covariances = np.einsum("bn,bn->b", weighted, second)
    # The product of two roots, because the root of the product could overflow or underflow.
    spreads = np.sqrt(np.einsum("bn,bn->b", weighted, first))
    # In place, because (b, n) arrays take most of the memory.
    np.multiply(counts, second, out=weighted)
    spreads *= np.sqrt(np.einsum("bn,bn->b", weighted, second))
    return np.divide(covariances, spreads, out=np.zeros(len(counts)), where=spreads > 0).clip(-1, 1)


def _deviations(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return scores (n,) minus the mean score of each resample (b, n).

    A score of the resample is subtracted before the mean: where all its scores are equal the result is 0, not rounding noise,
    and a large offset that the scores share costs no digits.
    """
    deviations = scores - scores[(counts > 0).argmax(axis=1), None]
    deviations -= (np.einsum("bn,bn->b", counts, deviations) / counts.sum(axis=1))[:, None]
    return deviations
