"""A metric on a set of rows, and a bootstrap interval around it."""

from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import answers, is_constant
from mtlcli.tasks.targets import Arrays

ENTRIES = 2**21
"""Entries of the largest matrix of counts: 16 MiB, and a metric holds a few arrays of that size."""


@dataclass(frozen=True)
class Estimate:
    """A metric's value on `n` rows, and the interval from `low` to `high` in which it varies when rows are redrawn.

    Attributes:
        degenerate: why the value means little, as a clause to print before it ("predictions are constant: pearson is 0.0");
            None where there is no such reason.
    """

    value: float
    low: float
    high: float
    n: int
    degenerate: str | None = None


def estimate(
    metric: Metric,
    predicted: Arrays,
    gold: Arrays,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Return the metric of n rows with its percentile interval (Efron and Tibshirani 1993, ch. 13).

    Each resample draws n rows with replacement; the interval spans the middle `level` of the resamples' values. It accounts for
    the choice of rows alone, not for the seed of training, and may not contain the value itself. The same `seed` gives the same
    interval. Memory does not grow with `resamples`.

    Raises:
        ValueError: there are no rows, the numbers of rows differ, or a prediction or label is not finite.
    """
    n = len(gold)
    if n == 0:
        raise ValueError("no rows to evaluate")
    if len(predicted) != n:
        raise ValueError(f"{len(predicted)} predictions for {n} labels")
    for name, rows in (("predictions", predicted), ("labels", gold)):
        for array in answers(rows):
            if wrong := len(array) - np.isfinite(array).sum():
                raise ValueError(f"{wrong} of {len(array)} {name} are not finite")
    bound = metric.bind(predicted, gold)
    value = bound.values(np.ones((1, n), dtype=np.int64))[0]
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    block = max(1, ENTRIES // n)
    for start in range(0, resamples, block):
        drawn = generator.integers(n, size=(min(block, resamples - start), n))
        values[start : start + block] = bound.values(_counts(drawn))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), n, _degenerate(metric, predicted, gold))


def _counts(rows: np.ndarray) -> np.ndarray:
    """Return how often each resample holds each row (b, n), for rows (b, n) that it drew."""
    cells = rows + np.arange(len(rows))[:, None] * rows.shape[1]
    return np.bincount(cells.ravel(), minlength=rows.size).reshape(rows.shape)


def _degenerate(metric: Metric, predicted: Arrays, gold: Arrays) -> str | None:
    """Return why a metric of these rows means little, None where there is no reason."""
    if len(gold) == 1:
        return "there is only one row"
    constant = [
        name
        for name, rows in (("predictions", predicted), ("labels", gold))
        if is_constant(rows, metric.task, metric.precision)
    ]
    return " and ".join(constant) + " are constant" if constant else None
