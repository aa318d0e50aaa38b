"""How sure a metric is: its value on a set of rows and a bootstrap interval around it."""

from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import is_constant

ENTRIES = 2**21  # of the largest matrix of counts: 16 MiB, and a metric holds a handful of that size


@dataclass(frozen=True)
class Estimate:
    """A metric's value on `n` rows, and the interval from `low` to `high` in which it moves when rows are redrawn.

    `degenerate` says why the value means little, as a clause to print before it ("predictions are constant: pearson is
    0.0"); None where nothing is wrong.
    """

    value: float
    low: float
    high: float
    n: int
    degenerate: str | None = None


def estimate(
    metric: Metric,
    predictions: np.ndarray,
    targets: np.ndarray,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """predictions (n,), targets (n,) -> the metric with its percentile interval (Efron and Tibshirani 1993, ch. 13).

    Each resample draws n rows with replacement; the interval spans the middle `level` of the resamples' values. It is
    about the choice of rows alone, not about the seed of training, and need not hold the value itself. The same `seed`
    gives the same interval. Memory does not grow with `resamples`.

    Raises:
        ValueError: there are no rows, the two lengths differ, or a prediction or target is not finite.
    """
    n = len(targets)
    if n == 0:
        raise ValueError("no rows to evaluate")
    if len(predictions) != n:
        raise ValueError(f"{len(predictions)} predictions for {n} targets")
    for name, scores in (("predictions", predictions), ("targets", targets)):
        if wrong := n - np.isfinite(scores).sum():
            raise ValueError(f"{wrong} of {n} {name} are not finite")
    value = metric.values(predictions, targets, np.ones((1, n), dtype=np.int64))[0]
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    block = max(1, ENTRIES // n)
    for start in range(0, resamples, block):
        rows = generator.integers(n, size=(min(block, resamples - start), n))
        values[start : start + block] = metric.values(predictions, targets, _counts(rows))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), n, _degenerate(metric, predictions, targets))


def _counts(rows: np.ndarray) -> np.ndarray:
    """rows (b, n) drawn by each resample -> how often resample b holds row i (b, n)."""
    cells = rows + np.arange(len(rows))[:, None] * rows.shape[1]
    return np.bincount(cells.ravel(), minlength=rows.size).reshape(rows.shape)


def _degenerate(metric: Metric, predictions: np.ndarray, targets: np.ndarray) -> str | None:
    """Why a metric of these rows means little."""
    if len(targets) == 1:
        return "there is only one row"
    constant = [
        name
        for name, values in (("predictions", predictions), ("targets", targets))
        if is_constant(values, metric.task, metric.precision)
    ]
    return " and ".join(constant) + " are constant" if constant else None
