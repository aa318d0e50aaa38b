"""Difference of two runs in a metric on the same rows: an interval around it and a p-value."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import without_rounding
from mtlcli.statistics.bootstrap import ENTRIES
from mtlcli.statistics.groups import RowGroups, bind_groups
from mtlcli.tasks.targets import Arrays, Ragged, concat


@dataclass(frozen=True)
class Difference:
    """The metric of two sides, each the mean over its runs, and the difference between them.

    Attributes:
        firsts, seconds: values of the single runs of each side.
        low, high: interval of the difference.
        p: two-sided p-value of the hypothesis that there is no difference.
        n: rows.
        drawn: differences on resamples (resamples,).
        groups: number of groups of rows that were resampled and swapped as a whole; None where single rows were.
    """

    firsts: tuple[float, ...]
    seconds: tuple[float, ...]
    low: float
    high: float
    p: float
    n: int
    drawn: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    groups: int | None = None

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval at another level, 0.95 being that of `low` and `high`."""
        low, high = np.quantile(self.drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

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
        """Second minus first."""
        return self.second - self.first


def paired(
    metric: Metric, first: Sequence[Arrays], second: Sequence[Arrays], gold: Arrays, *, groups: RowGroups | None = None,
    weights: np.ndarray | None = None, resamples: int = 2000, level: float = 0.95, seed: int = 0,
) -> Difference:  # fmt: skip
    """Compare the runs of two sides on the same n rows.

    One run on each side: the interval is that of the paired bootstrap (Efron and Tibshirani 1993, ch. 13), in which both runs are
    measured on the same resamples of the rows, and p is by approximate randomization, see `randomization`. Both account for the
    choice of rows alone. Several runs on a side: see `over_seeds`.

    Args:
        first, second: predictions of each side's runs, which differ in their seeds.
        gold: labels of the rows.
        groups: groups of rows that are resampled and swapped as a whole, because rows of one group are not independent.
        weights: (n,), weights of the rows, by which both runs are measured. Rows of weight 0 are left out.

    Raises:
        ValueError: there are no rows or runs, the numbers of rows differ, or a prediction or label is not finite.
    """
    if weights is not None and not (weights > 0).all():
        rows = np.flatnonzero(weights > 0)
        gold, weights, groups = gold.take(rows), weights[rows], None if groups is None else groups.take(rows)
        first, second = ([run.take(rows) for run in side] for side in (first, second))
    if not metric.reads_probabilities:
        first, second = ([_without_probabilities(run) for run in side] for side in (first, second))
    runs, n = [*first, *second], len(gold)
    if n == 0 or not len(first) or not len(second):
        raise ValueError("no rows to compare, or no runs")
    if wrong := [len(run) for run in runs if len(run) != n]:
        raise ValueError(f"{wrong[0]} predictions for {n} labels")
    if not all(np.isfinite(array).all() for rows in (*runs, gold) for array in rows.fields.values()):
        raise ValueError("a prediction or label is not finite")
    # Rounding is no difference between rows: without this, `_standard_scores` would inflate it to one.
    runs = [without_rounding(run, metric.task, metric.precision) for run in runs]
    generator = np.random.default_rng(seed)
    if groups is None and weights is None:
        gold, runs, counts = group_equal_rows(gold, runs)
    else:
        counts = np.ones(n if groups is None else len(groups), dtype=np.int64)
    units = int(counts.sum())
    bound = [bind_groups(metric, run, gold, groups, weights) for run in runs]
    values = np.array([of_run.values(counts[None])[0] for of_run in bound])
    # How often each cell occurs when `units` rows are drawn with replacement.
    blocks = (generator.multinomial(units, counts / units, size=size) for size in _blocks(resamples, len(gold)))
    drawn = np.concatenate([np.stack([of_run.values(block) for of_run in bound]) for block in blocks], axis=1)
    split = len(first)
    difference = values[split:].mean() - values[:split].mean()
    differences = drawn[split:].mean(axis=0) - drawn[:split].mean(axis=0)
    if len(runs) > 2:
        differences = over_seeds(values, drawn, split, generator)
        p = _two_sided(differences)
    else:
        p = randomization(metric, runs, gold, counts, float(difference), resamples, generator, groups, weights)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return Difference(
        tuple(values[:split].tolist()), tuple(values[split:].tolist()), float(low), float(high), p, n, differences,
        None if groups is None else units,
    )  # fmt: skip


def _without_probabilities(predicted: Arrays) -> Arrays:
    """Return predictions without probabilities: rows that differ in those alone are equal to most metrics."""
    return Ragged(
        {name: array for name, array in predicted.fields.items() if name != "probabilities"}, predicted.starts
    )


def group_equal_rows(gold: Arrays, runs: Sequence[Arrays]) -> tuple[Arrays, list[Arrays], np.ndarray]:
    """Return each different row once, and how many rows are equal to it: with classes, a few cells stand for all rows.

    Rows are equal if the label and the predictions of all runs are. Rows with several items, or with wide fields such as
    probabilities, are left as they are.
    """
    parts = [gold, *runs]
    columns = [(part, name) for part, rows in enumerate(parts) for name in rows.fields]
    arrays = [parts[part][name] for part, name in columns]
    if any(rows.starts is not None for rows in parts) or any(array.ndim > 1 for array in arrays):
        return gold, list(runs), np.ones(len(gold), dtype=np.int64)
    cells, counts = np.unique(np.vstack(arrays), axis=1, return_counts=True)
    fields: list[dict[str, np.ndarray]] = [{} for _ in parts]
    for (part, name), cell, array in zip(columns, cells, arrays, strict=True):
        fields[part][name] = cell.astype(array.dtype, copy=False)
    return Ragged(fields[0]), [Ragged(of_run) for of_run in fields[1:]], counts


def over_seeds(values: np.ndarray, drawn: np.ndarray, split: int, generator: np.random.Generator) -> np.ndarray:
    """Return differences of the sides' means (b,) as they vary with the rows and the seeds.

    The variance over rows and seeds of a crossed design is the sum of the rows' and the seeds' variance, minus the part that both
    contain: that of row and seed together. The resamples of the mean over runs give the first and, within a side, the last; the
    spread of the values within a side, pooled over both, the second. The seeds' part is drawn from Student's t with the degrees
    of freedom of that spread: resampling three seeds would make their spread a third too small. A side with one run is assumed
    to have the spread of the other side.

    Args:
        values: metric of each run on the rows as they are (runs,).
        drawn: metric of each run on resamples of the rows (runs, b).
        split: number of runs of the first side, which come first.
    """
    sides = (slice(None, split), slice(split, None))
    free = len(values) - 2
    share = 1 / split + 1 / (len(values) - split)
    seeds = share * sum(((values[side] - values[side].mean()) ** 2).sum() for side in sides) / free
    means = [drawn[side].mean(axis=0) for side in sides]
    both = share * sum((drawn[side] - mean).var(axis=1).sum() for side, mean in zip(sides, means, strict=True)) / free
    rows = means[1] - means[0]
    difference = values[split:].mean() - values[:split].mean()
    # Both variances are estimates, so their difference can be negative.
    rows_alone = max(0.0, 1 - both / rows.var()) if rows.var() > 0 else 0.0
    # The share is one of variance, hence the square root.
    from_rows = np.sqrt(rows_alone) * (rows - difference)
    return difference + from_rows + np.sqrt(seeds) * generator.standard_t(free, len(rows))


def randomization(
    metric: Metric, runs: Sequence[Arrays], gold: Arrays, counts: np.ndarray, difference: float, resamples: int,
    generator: np.random.Generator, groups: RowGroups | None = None, weights: np.ndarray | None = None,
) -> float:  # fmt: skip
    """Return p by approximate randomization of two runs (Noreen 1989; Yeh, COLING 2000).

    If the runs were equally good, it would not matter which of them made which of the two predictions for a row: they are swapped
    at random, row by row, and p is the share of swaps that differ at least as much as the runs do, these included. It is exact
    for every metric, so four rows to none are no evidence, which a bootstrap would report as some. Scores of two runs can have
    different scales, which a correlation ignores and a swap does not: they are put on one scale first where that does not
    change the metric.

    Args:
        counts: how often each row of the runs and of gold occurs (cells,), or each group (groups,).
        difference: the metric's difference between the runs.
        groups: groups of rows whose predictions are swapped together.
        weights: (n,), weights of the rows.
    """
    of_rows = counts if groups is None else np.ones(len(gold), dtype=np.int64)
    scaled = concat(_on_one_scale(metric, runs, gold, of_rows if weights is None else of_rows * weights))
    # Both runs' predictions as one run of twice the rows: a swap moves counts from one half to the other.
    twice = None if groups is None else groups.twice()
    bound = bind_groups(metric, scaled, concat([gold, gold]), twice, None if weights is None else np.tile(weights, 2))
    as_extreme = 0
    for size in _blocks(resamples, 2 * len(gold)):
        # Of `counts` equal rows, each swapped with probability 1/2, a binomial number is swapped.
        swapped = generator.binomial(counts, 0.5, size=(size, len(counts)))
        stayed = counts - swapped
        first = bound.values(np.concatenate([stayed, swapped], axis=1))
        second = bound.values(np.concatenate([swapped, stayed], axis=1))
        # The tolerance counts differences that are equal but for the order of the sums.
        as_extreme += int((np.abs(second - first) >= abs(difference) * (1 - 1e-9)).sum())
    return (1 + as_extreme) / (1 + resamples)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values of several hypotheses, each computed as if it were the only one, corrected after Holm 1979."""
    corrected, largest = [0.0] * len(ps), 0.0
    for factor, index in zip(holm_factors(ps), sorted(range(len(ps)), key=ps.__getitem__), strict=True):
        # Step down: no p-value is corrected to less than a smaller one.
        largest = max(largest, min(1.0, factor * ps[index]))
        corrected[index] = largest
    return corrected


def holm_levels(ps: Sequence[float], alpha: float) -> list[float]:
    """Return the levels of intervals that exclude 0 where Holm's procedure rejects at `alpha`: 1 - alpha / (m - rank)."""
    levels = [0.0] * len(ps)
    for factor, index in zip(holm_factors(ps), sorted(range(len(ps)), key=ps.__getitem__), strict=True):
        levels[index] = 1 - alpha / factor
    return levels


def holm_factors(ps: Sequence[float]) -> range:
    """Return what the p-values are multiplied by, from the smallest on: m, m - 1, ..., 1."""
    return range(len(ps), 0, -1)


def _two_sided(differences: np.ndarray) -> float:
    """Return the two-sided p-value of 0 among the differences (b,)."""
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    # The observed difference counts as one of the resamples, so p is never 0.
    return float(min(1.0, 2 * (1 + tail) / (1 + len(differences))))


def _blocks(resamples: int, width: int) -> Iterator[int]:
    """Yield how many resamples of `width` cells to hold at a time."""
    block = max(1, ENTRIES // width)
    for start in range(0, resamples, block):
        yield min(block, resamples - start)


def _on_one_scale(metric: Metric, runs: Sequence[Arrays], gold: Arrays, counts: np.ndarray) -> Sequence[Arrays]:
    """Return the runs as ranks or standard scores if the metric of both stays the same, else unchanged.

    Only predictions that are one number with a fraction for each row have a scale.
    """
    names = list(runs[0].fields)
    if len(names) > 1 or runs[0].starts is not None or not np.issubdtype(runs[0][names[0]].dtype, np.floating):
        return runs
    before = [metric.bind(run, gold).values(counts[None]) for run in runs]
    # Ranks keep rank correlations, standard scores keep Pearson's, and errors in units keep neither.
    for scale in (_ranks, _standard_scores):
        scaled: list[Arrays] = [Ragged({names[0]: scale(run[names[0]], counts)}) for run in runs]
        after = [metric.bind(run, gold).values(counts[None]) for run in scaled]
        if np.allclose(after, before, rtol=1e-9, atol=1e-9):
            return scaled
    return runs


def _ranks(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return ranks from 1 of scores (cells,); equal scores share the mean of their ranks."""
    _, ties = np.unique(scores, return_inverse=True)
    rows = np.bincount(ties, counts)
    return (rows.cumsum() - (rows - 1) / 2)[ties]


def _standard_scores(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return scores (cells,) with mean 0 and standard deviation 1 over rows; 0 where all are equal."""
    deviations = scores - np.average(scores, weights=counts)
    spread = np.sqrt(np.average(deviations**2, weights=counts))
    return deviations / spread if spread > 0 else np.zeros_like(scores)
