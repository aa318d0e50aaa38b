"""Mean squared error of predicted scores."""

import math

import numpy as np

from mtlcli.metrics.base import Decomposed
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
