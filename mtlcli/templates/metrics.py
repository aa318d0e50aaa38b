"""Mean absolute error: an example to change. Say here where the measure is from."""

import math

import numpy as np

from mtlcli.metrics.base import Metric


class Example(Metric):
    """Average |prediction - target| over rows, in the units of the data; 0 is best and there is no worst value."""

    higher_is_better = False
    bounds = (math.inf, 0.0)

    def values(self, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return mean absolute errors (b,) of predictions (n,) and targets (n,) for counts (b, n)."""
        return counts @ np.abs(predictions - targets) / counts.sum(axis=1)
