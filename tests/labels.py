"""Labels and predictions from arrays that a test writes by hand, and metrics of them."""

from typing import Any

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.statistics.bootstrap import Estimate, estimate
from mtlcli.statistics.paired import Difference, paired
from mtlcli.tasks.targets import Ragged, Score

SCORE = Score(0.0, 5.0, 2.0, 1.5)


def rows(array: Any) -> Ragged[Any]:
    """Return class indices or scores, arrays or tensors, as labels: numbers with a fraction are scores."""
    fraction = np.issubdtype(array.dtype, np.floating) if isinstance(array, np.ndarray) else array.is_floating_point()
    return Ragged({"value" if fraction else "index": array})


def measured(metric: Metric, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return a metric of resamples."""
    return metric.bind(rows(predictions), rows(targets)).values(counts)


def estimated(metric: Metric, predictions: np.ndarray, targets: np.ndarray, **more: Any) -> Estimate:
    """Return a metric with its interval."""
    return estimate(metric, rows(predictions), rows(targets), **more)


def compared(metric: Metric, first: np.ndarray, second: np.ndarray, targets: np.ndarray, **more: Any) -> Difference:
    """Return the difference of two sides' runs, a row of predictions each."""
    return paired(metric, [rows(run) for run in first], [rows(run) for run in second], rows(targets), **more)
