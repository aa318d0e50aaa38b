"""A metric on a set of rows, and a bootstrap interval around it."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import answers, is_constant
from mtlcli.tasks.targets import Arrays

ENTRIES = 2**21
"""Entries of the largest matrix of counts: 16 MiB, and a metric holds a few arrays of that size."""


FEWEST = 5
"""Right and wrong rows that a share needs for the bootstrap; with fewer, many resamples hold none of them."""

ROUNDING = 1e-12
"""Spread of resamples that is rounding alone, as of the correlation of equal numbers."""

Interval = Literal["bootstrap", "exact", "rule-of-three", "none"]


@dataclass(frozen=True)
class Estimate:
    """A metric's value on `n` rows, and the interval from `low` to `high` in which it varies when rows are redrawn.

    Attributes:
        degenerate: why the value means little, as a clause to print before it ("predictions are constant: pearson is 0.0");
            None where there is no such reason.
        interval: how the interval was made: "bootstrap"; "exact" (Clopper and Pearson 1934) for a share with few right or few
            wrong rows; "rule-of-three" where all resamples are equal; "none" where there is no interval, so low and high are the
            value.
    """

    value: float
    low: float
    high: float
    n: int
    degenerate: str | None = None
    interval: Interval = "bootstrap"


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

    A bootstrap interval is too narrow where few rows differ from the rest: 50 rows without a wrong one say that fewer than 7 %
    are wrong, and all resamples are perfect. There the interval is another one, see `Estimate.interval`.

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
    degenerate = _degenerate(metric, predicted, gold)
    kind: Interval = "bootstrap"
    if metric.is_proportion and min(right := round(value * n), n - right) < FEWEST:
        (low, high), kind = exact_interval(right, n, level), "exact"
    elif np.ptp(values) <= ROUNDING * max(1.0, abs(value)):
        (low, high), kind = _interval_without_spread(metric, float(value), n, level, degenerate)
    return Estimate(float(value), float(low), float(high), n, degenerate, kind)


def exact_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson (Biometrika 1934) for a share of which `count` of `n` rows were observed.

    The ends are the shares for which as many rows or more, and as few or fewer, have the probability (1 - level) / 2. It holds the
    true share with a probability of at least `level`.
    """
    tail = (1 - level) / 2
    if 2 * count > n:
        low, high = exact_interval(n - count, n, level)
        return 1 - high, 1 - low
    low = 0.0 if count == 0 else _share_at(1 - tail, count - 1, n)
    high = 1.0 if count == n else _share_at(tail, count, n)
    return low, high


def _share_at(probability: float, count: int, n: int) -> float:
    """Return the share for which `count` of `n` rows or fewer have a probability; by bisection, for it falls as the share grows."""
    ways = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(count + 1)])
    k = np.arange(count + 1)
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        at_most = np.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share)).sum()
        low, high = (share, high) if at_most > probability else (low, share)
    return (low + high) / 2


def _interval_without_spread(
    metric: Metric, value: float, n: int, level: float, degenerate: str | None
) -> tuple[tuple[float, float], Interval]:
    """Return the interval of a metric that no resample changes.

    Rows unlike those that were seen have a share of at most 1 - ((1 - level) / 2)^(1/n), about 3.7 / n for 95 % (the rule of
    three, two-sided: Hanley and Lippman-Hand, JAMA 1983). The interval is where the metric would be if it were at its bounds on
    these rows. Undefined metrics and those without bounds have none.
    """
    if degenerate is not None or not np.isfinite(metric.bounds).all():
        return (value, value), "none"
    unlike = 1 - ((1 - level) / 2) ** (1 / n)
    lowest, highest = sorted(metric.bounds)
    return (value - unlike * (value - lowest), value + unlike * (highest - value)), "rule-of-three"


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
