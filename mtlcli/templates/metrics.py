"""Mean absolute error: an example to change. Say here where the measure is from."""

import math

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays


class Example(Decomposed):
    """Average |prediction - label| over rows, in the units of the data; 0 is best and there is no worst."""

    measures = frozenset({"score"})
    higher_is_better = False
    bounds = (math.inf, 0.0)

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (absolute error, 1) of each row."""
        errors = np.abs(predicted["value"] - gold["value"])
        return np.stack([errors, np.ones_like(errors)], axis=1)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the sum of the errors / rows."""
        return totals[:, 0] / totals[:, 1]
