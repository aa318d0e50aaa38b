"""Mean squared error of predicted scores."""

import math

import numpy as np

from mtlcli.metrics.base import Metric


class MeanSquaredError(Metric):
    """Mean over rows of (prediction - target)^2, in squared units of the data; 0 is best and there is no worst."""

    measures = "scores"
    higher_is_better = False
    bounds = (math.inf, 0.0)

    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """predictions (n,) and targets (n,) scores, counts (b, n) -> mean squared errors (b,)."""
        return counts @ (predictions - targets) ** 2 / counts.sum(axis=1)
