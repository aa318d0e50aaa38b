"""Mean absolute error: an example to change. Say here where the measure is from."""

import math

import numpy as np

from mtlcli.metrics.base import Metric


class Example(Metric):
    """Mean over rows of |prediction - target|, in the units of the data; 0 is best and there is no worst."""

    higher_is_better = False
    bounds = (math.inf, 0.0)

    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """predictions (n,) and targets (n,) scores, counts (b, n) -> mean absolute errors (b,)."""
        return counts @ np.abs(predictions - targets) / counts.sum(axis=1)
