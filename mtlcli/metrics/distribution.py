"""Distances between a predicted distribution over classes and that of the label."""

import math

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays

SMALLEST = np.finfo(np.float32).tiny


class KLDivergence(Decomposed):
    """Average the sum over classes of q (log q - log p) over rows, in nats, for the label q and the prediction p; 0 is best."""

    measures = frozenset({"distribution"})
    higher_is_better = False
    bounds = (math.inf, 0.0)
    reads_probabilities = True

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (divergence, 1)."""
        q = np.nan_to_num(gold["probabilities"])
        # A probability of 0 for a class of the label would make the mean infinite.
        p = np.maximum(predicted["probabilities"].astype(np.float64), SMALLEST)
        # Probabilities in float32 sum to 1 only within rounding.
        p /= p.sum(axis=1, keepdims=True)
        logs = np.log(np.maximum(q, SMALLEST)) - np.log(p)
        # Rounding can leave a small negative sum where both distributions are equal.
        divergence = np.maximum(np.where(q > 0, q * logs, 0.0).sum(axis=1), 0.0)
        return np.stack([divergence, np.ones_like(divergence)], axis=1)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the sum of divergences / rows."""
        return totals[:, 0] / totals[:, 1]


class TotalVariation(KLDivergence):
    """Average half the sum over classes of |p - q| over rows, from 0, the best, to 1."""

    bounds = (1.0, 0.0)

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (distance, 1)."""
        distance = np.abs(predicted["probabilities"] - np.nan_to_num(gold["probabilities"])).sum(axis=1) / 2
        return np.stack([np.clip(distance, 0, 1), np.ones_like(distance)], axis=1)
