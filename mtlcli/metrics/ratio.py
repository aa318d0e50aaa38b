"""Ratios that are 0 where they are undefined."""

import numpy as np


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, element by element, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=below > 0)
