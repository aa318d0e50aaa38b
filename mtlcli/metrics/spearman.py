"""Spearman's rank correlation coefficient rho."""

from dataclasses import dataclass

import numpy as np

from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric
from mtlcli.metrics.pearson import correlation
from mtlcli.metrics.rounding import are_constant
from mtlcli.tasks.targets import Arrays


class Spearman(Metric):
    """Compute Pearson's r of the ranks of predictions and labels, from -1 to 1; equal scores share the mean of their ranks.

    Ranks are those within the resample, where a row drawn twice is a tie. rho is undefined where all predictions or all labels of
    the resample are equal within the rounding of the model (`mtlcli.metrics.rounding`), as in a single row; it is 0 there. Within a
    resample that is not constant only scores equal to the last bit are ties: "equal within rounding" is not transitive, so a
    chain of near scores could be cut into ties in more than one way. Two rows of one text that differ by rounding move rho by
    at most one rank of these rows.
    """

    measures = frozenset({"score"})
    bounds = (-1.0, 1.0)

    def bind(self, predicted: Arrays, gold: Arrays) -> "RankPairs":
        """Sort both scores once."""
        scores = (predicted["value"], gold["value"])
        return RankPairs(_Order.of(scores[0]), _Order.of(scores[1]), scores, self.task, self.precision)


@dataclass(frozen=True)
class RankPairs:
    """Spearman's rho of predicted and gold scores."""

    predicted: "_Order"
    gold: "_Order"
    scores: tuple[np.ndarray, np.ndarray]
    task: TaskFacts
    precision: str

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return rho of each resample (b,)."""
        rho = correlation(self.predicted.centered_ranks(counts), self.gold.centered_ranks(counts), counts)
        for scores in self.scores:
            rho[are_constant(scores, counts, self.task, self.precision)] = 0.0
        return rho


@dataclass(frozen=True)
class _Order:
    """Scores in ascending order: row numbers `order` (n,), where each different score begins, and its number `ties` (n,) by row."""

    order: np.ndarray
    starts: np.ndarray
    ties: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray) -> "_Order":
        """Sort scores (n,)."""
        order = np.argsort(scores, kind="stable")
        ascending = scores[order]
        is_new = np.append(True, ascending[1:] != ascending[:-1])
        # Assigned through `order`, so that `ties` has the order of the rows and not of the scores.
        ties = np.empty(len(scores), dtype=np.int64)
        ties[order] = is_new.cumsum() - 1
        return cls(order, np.flatnonzero(is_new), ties)

    def centered_ranks(self, counts: np.ndarray) -> np.ndarray:
        """Return twice the rank within each resample minus its mean: whole numbers (b, n) with mean 0.

        A score that m of N rows have and that k rows do not exceed has the ranks k - m + 1 to k, in the mean
        k - (m - 1) / 2; all ranks have the mean (N + 1) / 2. Twice the difference is 2 k - m - N.
        """
        rows = np.add.reduceat(counts.take(self.order, axis=1), self.starts, axis=1)
        ranks = 2 * rows.cumsum(axis=1) - rows - counts.sum(axis=1, keepdims=True)
        # float64, because sums of squares exceed 2^63 at some millions of rows
        return ranks.astype(np.float64).take(self.ties, axis=1)
