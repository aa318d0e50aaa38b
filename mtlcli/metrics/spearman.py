"""Spearman's rank correlation coefficient rho."""

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.pearson import correlation
from mtlcli.metrics.rounding import are_constant


class Spearman(Metric):
    """Pearson's r of the ranks of predictions and targets, from -1 to 1; equal scores share the mean of their ranks.

    Ranks are those within the resample, where a row drawn twice is a tie. rho is undefined where all predictions or all
    targets of the resample are equal within the rounding of the model (`mtlcli.metrics.rounding`), one row included; it is 0 there.
    Within a resample that is not constant only scores equal to the last bit are ties: "equal within rounding" is no equivalence,
    so a chain of near scores could be cut into ties in more than one way. Two rows of one text that come apart by rounding move
    rho by at most one rank of these rows.
    """

    measures = "scores"
    bounds = (-1.0, 1.0)

    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """predictions (n,) and targets (n,) scores, counts (b, n) -> rho (b,)."""
        rho = correlation(_centred_ranks(predictions, counts), _centred_ranks(targets, counts), counts)
        for scores in (predictions, targets):
            rho[are_constant(scores, counts, self.task, self.precision)] = 0.0
        return rho


def _centred_ranks(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """scores (n,), counts (b, n) -> twice the rank within resample b, less its mean: whole numbers (b, n), mean 0.

    A score that m of N rows have and that k rows do not exceed has the ranks k - m + 1 to k, in the mean
    k - (m - 1) / 2; all ranks have the mean (N + 1) / 2. Twice the difference is 2 k - m - N.
    """
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    is_new = np.append(True, ascending[1:] != ascending[:-1])
    ties = np.empty(len(scores), dtype=np.int64)  # index of a row's score among the different scores
    ties[order] = is_new.cumsum() - 1
    rows = np.add.reduceat(counts.take(order, axis=1), np.flatnonzero(is_new), axis=1)
    ranks = 2 * rows.cumsum(axis=1) - rows - counts.sum(axis=1, keepdims=True)
    return ranks.astype(np.float64).take(ties, axis=1)  # float64: sums of squares pass 2^63 at some millions of rows
