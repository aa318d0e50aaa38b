"""A metric on a set of rows, and a bootstrap interval around it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mtlcli.metrics.base import Metric, Resampled, Statistics
from mtlcli.metrics.rounding import answers, is_constant
from mtlcli.statistics.groups import RowGroups, bind_groups, effective_units
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
        groups: number of groups of rows that are redrawn as a whole; None where single rows are.
        sets: the evaluation sets whose mean the value is; empty for the value of one set of rows.
        drawn: values of the resamples (resamples,).
        degenerate: why the value means little, as a clause to print before it ("predictions are constant: pearson is 0.0");
            None where there is no such reason.
        interval: how the interval was made: "bootstrap"; "exact" (Clopper and Pearson 1934) for a share with few right or few
            wrong rows, or groups with such rows; "rule-of-three" where all resamples are equal; "none" where there is no interval,
            so low and high are the value.
    """

    value: float
    low: float
    high: float
    n: int
    degenerate: str | None = None
    interval: Interval = "bootstrap"
    groups: int | None = None
    sets: tuple[str, ...] = ()
    drawn: tuple[float, ...] = field(default=(), repr=False, compare=False)


def estimate(
    metric: Metric,
    predicted: Arrays,
    gold: Arrays,
    *,
    groups: RowGroups | None = None,
    weights: np.ndarray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Return the metric of n rows with its percentile interval (Efron and Tibshirani 1993, ch. 13).

    Each resample draws n rows with replacement; the interval spans the middle `level` of the resamples' values. It accounts for
    the choice of rows alone, not for the seed of training, and may not contain the value itself. The same `seed` gives the same
    interval. Memory does not grow with `resamples`.

    With `groups`, a resample draws as many whole groups as there are (the cluster bootstrap: Davison and Hinkley 1997, section
    3.8), because rows of one group, such as the sentences of a document, are not independent. The number of rows then varies from
    resample to resample.

    A bootstrap interval is too narrow where few rows differ from the rest: 50 rows without a wrong one say that fewer than 7 %
    are wrong, and all resamples are perfect. There the interval is another one, see `Estimate.interval`.

    With `weights` (n,), each row counts by its weight wherever it is drawn; all rows are equally likely to be drawn. Rows of weight
    0 are left out. Where the interval is not that of the bootstrap, the rows are worth (sum w)^2 / sum w^2 rows of equal weight.

    Raises:
        ValueError: there are no rows or all have weight 0, the numbers of rows differ, or a prediction or label is not finite.
    """
    predicted, gold, groups, weights = weighted_rows(predicted, gold, groups, weights)
    n = len(gold)
    if n == 0:
        raise ValueError("no rows to evaluate")
    if len(predicted) != n:
        raise ValueError(f"{len(predicted)} predictions for {n} labels")
    for name, rows in (("predictions", predicted), ("labels", gold)):
        for array in answers(rows):
            if wrong := len(array) - np.isfinite(array).reshape(len(array), -1).all(axis=1).sum():
                raise ValueError(f"{wrong} of {len(array)} {name} are not finite")
    value = value_of(metric, predicted, gold, weights)
    bound = bind_groups(metric, predicted, gold, groups, weights)
    units = n if groups is None else len(groups)
    # Blocks by rows and not by units: counts of groups may have to become counts of rows.
    blocks = drawn_counts(resamples, units, block=max(1, ENTRIES // n), seed=seed)
    values = np.concatenate([bound.values(counts) for counts in blocks])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    degenerate = _degenerate(metric, predicted, gold, groups)
    kind: Interval = "bootstrap"
    worth = float(units)
    if weights is not None:
        of_units = weights if groups is None else np.bincount(groups.codes, weights=weights, minlength=units)
        worth = effective_units(of_units)
    # Before the check of the spread: a share of 0 or 1 has none, but an exact interval.
    if metric.is_proportion and _is_extreme(bound, value, n, groups, weights):
        if weights is None:
            worth = float(_effective_rows(value, values, units, n))
        (low, high), kind = interval_of_share(value, worth, level), "exact"
    elif np.ptp(values) <= ROUNDING * max(1.0, abs(value)):
        (low, high), kind = _interval_without_spread(metric, value, worth, level, degenerate)
    return Estimate(
        value, float(low), float(high), n, degenerate, kind, None if groups is None else units,
        drawn=tuple(values.tolist()),
    )  # fmt: skip


def weighted_rows(
    predicted: Arrays, gold: Arrays, groups: RowGroups | None, weights: np.ndarray | None
) -> tuple[Arrays, Arrays, RowGroups | None, np.ndarray | None]:
    """Return predictions, labels, groups and weights of the rows with a weight above 0.

    Raises:
        ValueError: every row has weight 0.
    """
    if weights is None or bool((weights > 0).all()):
        return predicted, gold, groups, weights
    rows = np.flatnonzero(weights > 0)
    if not len(rows):
        raise ValueError("every row has weight 0")
    return predicted.take(rows), gold.take(rows), None if groups is None else groups.take(rows), weights[rows]


def value_of(metric: Metric, predicted: Arrays, gold: Arrays, weights: np.ndarray | None = None) -> float:
    """Return the metric of n rows, each counted by its weight (n,) if there are weights."""
    if weights is None:
        return metric.value(predicted, gold)
    predicted, gold, _, weights = weighted_rows(predicted, gold, None, weights)
    return float(metric.bind(predicted, gold).values(np.asarray(weights, dtype=np.float64)[None])[0])


def mean_estimate(estimates: Mapping[str, Estimate], *, same_groups: bool = False, level: float = 0.95) -> Estimate:
    """Return the mean of a metric over several sets of rows, with its interval.

    Each resample takes one of every set. Sets are resampled independently of each other, unless they have the same groups: those
    are drawn together. If the interval of a set is not that of the bootstrap, both ends are the means of the sets' ends, which is
    wider than necessary.

    Args:
        estimates: estimates of the same metric by name of the set, with the same number of resamples.
        same_groups: whether all sets have the same groups of rows, such as the same documents in several languages.

    Raises:
        ValueError: there are no sets.
    """
    if not estimates:
        raise ValueError("no sets to average")
    members, sets = list(estimates.values()), tuple(estimates)
    if len(members) == 1:
        return replace(members[0], sets=sets)
    numbers = [(member.value, member.low, member.high) for member in members]
    value, low, high = (float(mean) for mean in np.mean(numbers, axis=0))
    drawn: tuple[float, ...] = ()
    kind: Interval = next((member.interval for member in members if member.interval != "bootstrap"), "bootstrap")
    if all(len(member.drawn) for member in members):
        # The sets' resamples were drawn with the same seed: another order makes them independent.
        generator = np.random.default_rng(0)
        columns = [np.array(member.drawn) for member in members]
        columns = columns if same_groups else [generator.permutation(column) for column in columns]
        drawn = tuple(np.mean(columns, axis=0).tolist())
        if kind == "bootstrap":
            low, high = (float(end) for end in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    reasons = [f"in {name}, {member.degenerate}" for name, member in estimates.items() if member.degenerate]
    groups = [member.groups for member in members]
    total = None if None in groups else groups[0] if same_groups else sum(count for count in groups if count)
    rows = sum(member.n for member in members)
    return Estimate(value, low, high, rows, "; ".join(reasons) or None, kind, total, sets, drawn)


def _is_extreme(
    bound: Resampled, share: float, n: int, groups: RowGroups | None, weights: np.ndarray | None = None
) -> bool:
    """Return whether so few rows are right or wrong, or groups have such rows, that many resamples have none of them."""
    if groups is None and weights is None:
        right = round(share * n)
        return min(right, n - right) < FEWEST
    if not isinstance(bound, Statistics):
        return min(share, 1 - share) * (n if groups is None else len(groups)) < FEWEST
    # Shares of single units, to count the units with a right row and those with a wrong one.
    shares = bound.score(bound.statistics)
    return bool(min((shares > 0).sum(), (shares < 1).sum()) < FEWEST)


def exact_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson (Biometrika 1934) for a share of which `count` of `n` rows were observed.

    The ends are the shares for which as many rows or more, and as few or fewer, have the probability (1 - level) / 2. It holds the
    true share with a probability of at least `level`.
    """
    tail = (1 - level) / 2
    # By symmetry, `_share_at` sums no more than n / 2 terms.
    if 2 * count > n:
        low, high = exact_interval(n - count, n, level)
        return 1 - high, 1 - low
    low = 0.0 if count == 0 else _share_at(1 - tail, count - 1, n)
    high = 1.0 if count == n else _share_at(tail, count, n)
    return low, high


def _share_at(probability: float, count: int, n: int) -> float:
    """Return the share for which `count` of `n` rows or fewer have a probability; by bisection, for it falls as the share grows."""
    # Logarithms, because the binomial coefficients of many rows overflow a float.
    ways = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(count + 1)])
    k = np.arange(count + 1)
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        at_most = np.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share)).sum()
        low, high = (share, high) if at_most > probability else (low, share)
    return (low + high) / 2


def _effective_rows(share: float, drawn: np.ndarray, units: int, n: int) -> int:
    """Return how many independent rows n rows in groups are worth for a share (Korn and Graubard, Survey Methodology 1998).

    It is the number whose binomial variance is that of the resamples, between the number of groups and that of rows; the number of
    groups where the resamples are all equal. They also correct for the degrees of freedom, which is left out here.
    """
    variance = float(drawn.var())
    return units if variance == 0 else int(min(max(share * (1 - share) / variance, units), n))


def interval_of_share(share: float, rows: float, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share of independent rows; numbers that are not whole are rounded so that it gets wider."""
    n = max(1, math.floor(rows + ROUNDING * rows))
    low, _ = exact_interval(math.floor(share * n + ROUNDING * n), n, level)
    _, high = exact_interval(math.ceil(share * n - ROUNDING * n), n, level)
    return low, high


def _interval_without_spread(
    metric: Metric, value: float, n: float, level: float, degenerate: str | None
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


def drawn_counts(resamples: int, units: int, *, block: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each resample holds each of `units` rows or groups (b, units), `block` resamples at a time."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, block):
        yield _counts(generator.integers(units, size=(min(block, resamples - start), units)))


def _counts(rows: np.ndarray) -> np.ndarray:
    """Return how often each resample holds each row (b, n), for rows (b, n) that it drew."""
    # One bincount for all resamples: each has n bins of its own.
    cells = rows + np.arange(len(rows))[:, None] * rows.shape[1]
    return np.bincount(cells.ravel(), minlength=rows.size).reshape(rows.shape)


def _degenerate(metric: Metric, predicted: Arrays, gold: Arrays, groups: RowGroups | None) -> str | None:
    """Return why a metric of these rows means little, None where there is no reason."""
    if len(gold) == 1:
        return "there is only one row"
    if groups is not None and len(groups) == 1:
        return "all rows are of one group"
    constant = [
        name
        for name, rows in (("predictions", predicted), ("labels", gold))
        if is_constant(rows, metric.task, metric.precision)
        and not (metric.reads_probabilities and name == "predictions" and "probabilities" in rows)
    ]
    return " and ".join(constant) + " are constant" if constant else None
