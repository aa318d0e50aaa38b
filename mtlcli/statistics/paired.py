"""Whether two runs differ in a metric on the same rows: the difference, an interval around it and a p-value."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import is_constant
from mtlcli.statistics.bootstrap import ENTRIES


@dataclass(frozen=True)
class Difference:
    """The metric of two sides, each the mean over its runs, and `value`, the second less the first.

    The interval runs from `low` to `high`; `p` is two-sided, for the hypothesis that there is no difference. `firsts` and
    `seconds` are the values of the single runs.
    """

    firsts: tuple[float, ...]
    seconds: tuple[float, ...]
    low: float
    high: float
    p: float
    n: int

    @property
    def first(self) -> float:
        """Mean over the runs of the first side."""
        return float(np.mean(self.firsts))

    @property
    def second(self) -> float:
        """Mean over the runs of the second side."""
        return float(np.mean(self.seconds))

    @property
    def value(self) -> float:
        """Second less first."""
        return self.second - self.first


def paired(
    metric: Metric, first: np.ndarray, second: np.ndarray, targets: np.ndarray, *, resamples: int = 2000,
    level: float = 0.95, seed: int = 0,
) -> Difference:  # fmt: skip
    """first (s, n) and second (t, n): predictions of s and t runs with different seeds for the rows of targets (n,).

    One run on each side: the interval is that of the paired bootstrap (Efron and Tibshirani 1993, ch. 13), in which both
    runs are measured on the same resamples of the rows, and p is by approximate randomization, see `randomization`. Both
    are about the choice of rows alone. Several runs on a side: see `over_seeds`.

    Raises:
        ValueError: there are no rows or runs, the lengths differ, or a prediction or target is not finite.
    """
    runs, n = np.concatenate([first, second]), len(targets)
    if n == 0 or not len(first) or not len(second):
        raise ValueError("no rows to compare, or no runs")
    if runs.shape[1] != n:
        raise ValueError(f"{runs.shape[1]} predictions for {n} targets")
    if not (np.isfinite(runs).all() and np.isfinite(targets).all()):
        raise ValueError("a prediction or target is not finite")
    # Rounding is no difference between rows: without this, `_standard_scores` would blow it up to one.
    runs = np.stack([run[:1].repeat(n) if is_constant(run, metric.task, metric.precision) else run for run in runs])
    generator = np.random.default_rng(seed)
    # Rows that are alike in all runs are one cell that counts several times: a handful of cells where there are classes.
    cells, counts = np.unique(np.vstack([targets, runs]), axis=1, return_counts=True)
    targets, runs = cells[0], cells[1:]
    values = _values(metric, runs, targets, counts[None])[:, 0]
    drawn = np.concatenate(
        [
            _values(metric, runs, targets, generator.multinomial(n, counts / n, size=size))
            for size in _blocks(resamples, len(targets))
        ],
        axis=1,
    )
    split = len(first)
    difference = values[split:].mean() - values[:split].mean()
    differences = drawn[split:].mean(axis=0) - drawn[:split].mean(axis=0)
    if len(runs) > 2:
        differences = over_seeds(values, drawn, split, generator)
        p = _two_sided(differences)
    else:
        p = randomization(metric, runs, targets, counts, float(difference), resamples, generator)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return Difference(tuple(values[:split].tolist()), tuple(values[split:].tolist()), float(low), float(high), p, n)


def over_seeds(values: np.ndarray, drawn: np.ndarray, split: int, generator: np.random.Generator) -> np.ndarray:
    """values (runs,) on the rows as they are, drawn (runs, b) on resamples of them -> differences of the sides' means (b,)
    as they move when rows and seeds are drawn anew. The first `split` runs are the first side.

    The variance over rows and seeds of a crossed design is that of the rows and that of the seeds, less what both hold: the
    part of row and seed together. The resamples of the mean over runs give the first and, within a side, the last; the
    spread of the values within a side, pooled over both, the second. The seeds' part is drawn from Student's t with as
    many degrees of freedom as that spread has: resampling three seeds would make their spread a third too small. A side of
    one run is taken to spread like the other one.
    """
    sides = (slice(None, split), slice(split, None))
    free = len(values) - 2
    share = 1 / split + 1 / (len(values) - split)
    seeds = share * sum(((values[side] - values[side].mean()) ** 2).sum() for side in sides) / free
    means = [drawn[side].mean(axis=0) for side in sides]
    both = share * sum((drawn[side] - mean).var(axis=1).sum() for side, mean in zip(sides, means, strict=True)) / free
    rows = means[1] - means[0]
    difference = values[split:].mean() - values[:split].mean()
    kept = max(0.0, 1 - both / rows.var()) if rows.var() > 0 else 0.0
    return difference + np.sqrt(kept) * (rows - difference) + np.sqrt(seeds) * generator.standard_t(free, len(rows))


def randomization(
    metric: Metric, runs: np.ndarray, targets: np.ndarray, counts: np.ndarray, difference: float, resamples: int,
    generator: np.random.Generator,
) -> float:  # fmt: skip
    """runs (2, cells), targets (cells,), counts (cells,) -> p by approximate randomization (Noreen 1989; Yeh, COLING 2000).

    If the runs were alike, it would not matter which of them made which of the two predictions for a row: they are swapped
    at random, row by row, and p is the share of swaps that differ at least as much as the runs do, these included. It is
    exact for every metric, so four rows to none are no evidence, where a bootstrap takes them for some. Scores of two runs
    may stand on different scales, which a correlation does not see and a swap does: they are put on one scale first where
    the metric stays what it is.
    """
    first, second = _on_one_scale(metric, runs, targets, counts)
    predictions, twice = np.concatenate([first, second]), np.concatenate([targets, targets])
    found = 0
    for size in _blocks(resamples, len(twice)):
        swapped = generator.binomial(counts, 0.5, size=(size, len(counts)))
        stayed = counts - swapped
        other = metric.values(predictions, twice, np.concatenate([stayed, swapped], axis=1))
        found += int(
            (
                np.abs(metric.values(predictions, twice, np.concatenate([swapped, stayed], axis=1)) - other)
                >= abs(difference) * (1 - 1e-9)
            ).sum()
        )
    return (1 + found) / (1 + resamples)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of several hypotheses, each as if it were the only one: corrected after Holm 1979."""
    found, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        found[index] = largest
    return found


def _two_sided(differences: np.ndarray) -> float:
    """How far 0 lies in the tails of the differences (b,)."""
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (1 + tail) / (1 + len(differences))))


def _values(metric: Metric, runs: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """runs (r, cells), counts (b, cells) -> values (r, b)."""
    return np.stack([metric.values(run, targets, counts) for run in runs])


def _blocks(resamples: int, width: int) -> Iterator[int]:
    """How many resamples of so many cells to hold at a time."""
    block = max(1, ENTRIES // width)
    for start in range(0, resamples, block):
        yield min(block, resamples - start)


def _on_one_scale(metric: Metric, runs: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """runs (2, cells) as ranks or standard scores, where the metric of both stays the same; otherwise, and classes, as they
    are."""
    if not np.issubdtype(runs.dtype, np.floating):
        return runs
    before = _values(metric, runs, targets, counts[None])
    for scale in (_ranks, _standard_scores):
        scaled = np.stack([scale(run, counts) for run in runs])
        if np.allclose(_values(metric, scaled, targets, counts[None]), before, rtol=1e-9, atol=1e-9):
            return scaled
    return runs


def _ranks(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """scores (cells,), counts (cells,) -> ranks from 1; equal scores share the mean of theirs."""
    _, ties = np.unique(scores, return_inverse=True)
    rows = np.bincount(ties, counts)
    return (rows.cumsum() - (rows - 1) / 2)[ties]


def _standard_scores(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """scores (cells,), counts (cells,) -> mean 0 and standard deviation 1 over rows; 0 where all are equal."""
    deviations = scores - np.average(scores, weights=counts)
    spread = np.sqrt(np.average(deviations**2, weights=counts))
    return deviations / spread if spread > 0 else np.zeros_like(scores)
