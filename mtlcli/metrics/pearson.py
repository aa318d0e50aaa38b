"""Pearson's correlation coefficient r."""

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import are_constant


class Pearson(Metric):
    """Covariance of predictions and targets over the product of their standard deviations, from -1 to 1.

    r is undefined where all predictions or all targets of the resample are equal, one row included; it is 0 there.
    Equal means within the rounding of the model, see `mtlcli.metrics.rounding`.
    """

    measures = "scores"
    bounds = (-1.0, 1.0)

    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """predictions (n,) and targets (n,) scores, counts (b, n) -> r (b,)."""
        r = correlation(_deviations(predictions, counts), _deviations(targets, counts), counts)
        for scores in (predictions, targets):
            r[are_constant(scores, counts, self.task, self.precision)] = 0.0
        return r


def correlation(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first (b, n), second (b, n), of mean 0 in each resample, counts (b, n) -> r (b,), 0 where either is all 0."""
    weighted = counts * first
    covariances = np.einsum("bn,bn->b", weighted, second)
    spreads = np.sqrt(np.einsum("bn,bn->b", weighted, first))
    np.multiply(counts, second, out=weighted)
    spreads *= np.sqrt(np.einsum("bn,bn->b", weighted, second))
    return np.divide(covariances, spreads, out=np.zeros(len(counts)), where=spreads > 0).clip(-1, 1)


def _deviations(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """scores (n,), counts (b, n) -> scores less the mean score of resample b (b, n).

    Takes off a score of the resample before the mean: where all its scores are equal the result is 0, not rounding
    noise, and a large offset that the scores share costs no digits.
    """
    deviations = scores - scores[(counts > 0).argmax(axis=1), None]
    deviations -= (np.einsum("bn,bn->b", counts, deviations) / counts.sum(axis=1))[:, None]
    return deviations
