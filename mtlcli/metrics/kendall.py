"""Kendall's rank correlation coefficient tau-b (Kendall, Biometrika 1945)."""

from dataclasses import dataclass

import numpy as np

from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import are_constant
from mtlcli.tasks.targets import Arrays

BLOCK = 1024
"""Rows whose pairs with all rows are in memory at a time."""


class Kendall(Metric):
    """Compute tau-b = (C - D) / sqrt((P - T_1) (P - T_2)) over the P pairs of rows, from -1 to 1.

    C pairs are ordered alike by prediction and label, D oppositely; T_1 and T_2 have equal predictions or equal labels. A row that a
    resample drew twice is a tie of both. tau is undefined where all predictions or all labels are equal within the rounding of the
    model, and 0 there. The cost grows with the square of the number of rows.
    """

    measures = frozenset({"score"})
    bounds = (-1.0, 1.0)

    def bind(self, predicted: Arrays, gold: Arrays) -> "OrderedPairs":
        """Keep the scores."""
        return OrderedPairs(predicted["value"], gold["value"], self.task, self.precision)


@dataclass(frozen=True)
class OrderedPairs:
    """tau-b of predicted (n,) and gold (n,) scores."""

    predicted: np.ndarray
    gold: np.ndarray
    task: TaskFacts
    precision: str

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return tau-b of each resample (b,)."""
        weights = counts.astype(np.float64)
        balance = np.zeros(len(counts))  # twice C - D
        for start in range(0, len(self.gold), BLOCK):
            rows = slice(start, start + BLOCK)
            # (rows of the block, n). Each pair is counted in both orders; a row and itself have the sign 0.
            signs = np.sign(self.predicted[rows, None] - self.predicted) * np.sign(self.gold[rows, None] - self.gold)
            balance += np.einsum("bn,bn->b", weights[:, rows], weights @ signs.T)
        total = weights.sum(axis=1)
        # Twice the pairs. In `untied` the linear terms cancel: total^2 minus the squares of the groups, so that
        # fractional weights need no other formula.
        pairs = total * (total - 1)
        untied = [pairs - _tied(scores, weights) for scores in (self.predicted, self.gold)]
        below = np.sqrt(untied[0] * untied[1])
        tau = np.divide(balance, below, out=np.zeros(len(counts)), where=below > 0).clip(-1, 1)
        for scores in (self.predicted, self.gold):
            tau[are_constant(scores, counts, self.task, self.precision)] = 0.0
        return tau


def _tied(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return twice the number of pairs with equal scores in each resample (b,)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
    groups = np.add.reduceat(weights.take(order, axis=1), starts, axis=1)
    return (groups * (groups - 1)).sum(axis=1)
