"""How well a cheap measure predicts the measured gains: Spearman's rho with intervals, and the most that any predictor can reach.

A measure x and the gains are matrices (k, k) over directed pairs. The rank correlation over all pairs is mostly decided by which
task gains at all; that within receivers, the mean over the columns, answers "whom do I add to this task".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

RESAMPLES = 2000
FEWEST_TASKS = 4
"""Tasks below which no correlation is computed: at 3 tasks, unrelated numbers give -.83 to .83 in 95 % of cases."""
ENOUGH_TASKS = 6
"""Tasks below which a correlation comes with the note that they are too few."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; all None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Prediction:
    """Hold how well one measure predicts the gains.

    Attributes:
        measure: its name.
        rho: Spearman's rho over all directed pairs, with the interval from redrawing pairs and seeds.
        within: mean of rho within receivers, with the interval from redrawing sources and seeds.
        over_tasks: rho with the interval from redrawing tasks, which accounts for pairs that share a task; None under 6 tasks.
        pairs: number of pairs with both numbers.
        ceiling: largest rho that a predictor with this measure's reliability can reach; None where the reliability of the gains is
            not finite.
    """

    measure: str
    rho: Interval
    within: Interval
    over_tasks: Interval | None
    pairs: int
    ceiling: float | None


@dataclass(frozen=True)
class Reliability:
    """Hold the reliability of the mean gains over the seeds, from 0 (noise) to 1, and its interval from redrawing pairs."""

    value: float
    low: float
    high: float

    @property
    def repeats(self) -> bool:
        """Return whether the interval excludes 0."""
        return self.low > 0


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values (n,), from 0; equal values share the mean of their ranks."""
    # By comparing all pairs: of the few values here, that is faster than sorting them.
    below, equal = (values[:, None] > values).sum(1), (values[:, None] == values).sum(1)
    means: np.ndarray = below + (equal - 1) / 2
    return means


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Spearman's rho of two vectors (n,); None where one is constant or there are fewer than three values."""
    if len(x) < 3:
        return None
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else None


def within_receivers(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return the mean over the columns of rho within a column, of matrices (n, k) with NaN where there is no number."""
    correlations = []
    for column in range(x.shape[1]):
        both = np.isfinite(x[:, column]) & np.isfinite(y[:, column])
        rho = spearman(x[both, column], y[both, column])
        if rho is not None:
            correlations.append(rho)
    return float(np.mean(correlations)) if correlations else None


def predictions(
    measures: Mapping[str, np.ndarray],
    gains: np.ndarray,
    *,
    reliabilities: Mapping[str, float | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[list[Prediction], Mapping[str, np.ndarray]]:
    """Return how well each measure predicts the gains, and the resampled rho of each (resamples,), drawn alike for all.

    A resample draws seeds and pairs with replacement. The resampled mean of S seeds varies too little by sqrt((S - 1) / S), so it
    is moved away from the mean by the inverse.

    Args:
        measures: (k, k) each, NaN where there is no number.
        gains: (S, k, k), by seed; NaN on the diagonal.
        reliabilities: of the measures, where finite; they lower the ceiling.

    Returns:
        Nothing for fewer than `FEWEST_TASKS` tasks.
    """
    count, k, _ = gains.shape
    if k < FEWEST_TASKS or not measures:
        return [], {}
    mean = gains.mean(0)
    reliability = gain_reliability(gains, seed=seed)
    generator = np.random.default_rng(seed)
    # Draws are made once for all measures, because `winner` compares the measures draw by draw.
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    drawn_within: dict[str, list[float]] = {name: [] for name in measures}
    drawn_tasks: dict[str, list[float]] = {name: [] for name in measures}
    # Without the diagonal, which is NaN.
    pairs = np.flatnonzero(np.isfinite(mean).ravel())
    for _ in range(resamples):
        moved = _moved(gains, mean, generator.integers(count, size=(count,)))
        of_pairs = generator.choice(pairs, size=len(pairs))
        tasks = generator.integers(k, size=k)
        sources = generator.integers(k, size=k)
        for name, x in measures.items():
            pairs_of_measure = of_pairs[np.isfinite(x.ravel()[of_pairs])]
            _append(drawn[name], spearman(x.ravel()[pairs_of_measure], moved.ravel()[pairs_of_measure]))
            # Rows are drawn, so every column is still one receiver.
            _append(drawn_within[name], within_receivers(x[sources], moved[sources]))
            if k >= ENOUGH_TASKS:
                # A task that is drawn twice is paired with itself, where the NaN of the diagonal leaves the pair out.
                _append(drawn_tasks[name], _over(x[np.ix_(tasks, tasks)], moved[np.ix_(tasks, tasks)]))
    rows = []
    for name, x in measures.items():
        both = np.isfinite(x) & np.isfinite(mean)
        rho = spearman(x[both], mean[both])
        of_measure = None if reliabilities is None else reliabilities.get(name)
        # Attenuation: the expected correlation is at most the root of the product of both reliabilities.
        ceiling = (
            None
            if reliability is None
            else float(np.sqrt(max(0.0, reliability.value) * (1.0 if of_measure is None else max(0.0, of_measure))))
        )
        rows.append(
            Prediction(
                name,
                _interval(rho, drawn[name]),
                _interval(within_receivers(x, mean), drawn_within[name]),
                _interval(rho, drawn_tasks[name]) if k >= ENOUGH_TASKS else None,
                int(both.sum()),
                ceiling,
            )
        )
    return rows, {name: np.array(values) for name, values in drawn.items()}


def _moved(gains: np.ndarray, mean: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Return the mean gains of drawn seeds, with the spread that means of S seeds have."""
    count = len(gains)
    factor = np.sqrt(count / (count - 1)) if count > 1 else 1.0
    moved: np.ndarray = mean + factor * (gains[seeds].mean(0) - mean)
    return moved


def _over(x: np.ndarray, y: np.ndarray) -> float | None:
    both = np.isfinite(x) & np.isfinite(y)
    return spearman(x[both], y[both])


def _append(values: list[float], value: float | None) -> None:
    # A constant resample has no rank correlation; NaN keeps the draws of all measures side by side.
    values.append(float("nan") if value is None else value)


def _interval(value: float | None, drawn: Sequence[float]) -> Interval:
    finite = np.array(drawn)[np.isfinite(drawn)]
    if value is None or not len(finite):
        return Interval(value)
    low, high = np.quantile(finite, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def gain_reliability(gains: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Reliability | None:
    """Return how well the order of the pairs by mean gain would repeat with other seeds; None for a single seed.

    The mean rank correlation between the means of two halves of the seeds is turned into the reliability of all of them by the
    formula of Spearman and Brown, for halves of unequal size too.

    Args:
        gains: (S, k, k), by seed.
    """
    count = len(gains)
    flat = gains.reshape(count, -1)
    flat = flat[:, np.isfinite(flat).all(0)]
    if count < 2 or flat.shape[1] < 3:
        return None
    # An even number of seeds gives each split twice, which does not change the mean.
    halves = [np.array(half) for half in combinations(range(count), count // 2)]
    splits = [(half, np.setdiff1d(np.arange(count), half)) for half in halves]

    def of(columns: np.ndarray) -> float:
        correlations = [spearman(columns[a].mean(0), columns[b].mean(0)) for a, b in splits]
        defined = [rho for rho in correlations if rho is not None]
        return spearman_brown(float(np.mean(defined)), len(splits[0][0]), len(splits[0][1])) if defined else 0.0

    generator = np.random.default_rng(seed)
    # Fewer draws than for the measures, because each one correlates all splits of the seeds.
    drawn = [of(flat[:, generator.integers(flat.shape[1], size=flat.shape[1])]) for _ in range(resamples // 10)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Reliability(of(flat), float(low), float(high))


def spearman_brown(correlation: float, first: int, second: int) -> float:
    """Return the reliability of the mean of all a + b repetitions, from the correlation of the means of a and of b of them.

    With the reliability r of one repetition, the mean of n has ``n r / (1 + (n - 1) r)``, and the correlation of two means is the root
    of the product of their reliabilities. A correlation of 0 or less gives 0.
    """
    if correlation <= 0:
        return 0.0
    # Bisection, because the product rises with the reliability of one repetition; 60 halvings exhaust float64.
    low, high = 0.0, 1.0
    for _ in range(60):
        single = (low + high) / 2
        product = _of_mean(single, first) * _of_mean(single, second)
        low, high = (single, high) if product < correlation**2 else (low, single)
    return _of_mean((low + high) / 2, first + second)


def _of_mean(single: float, count: int) -> float:
    return count * single / (1 + (count - 1) * single)


def winner(drawn: Mapping[str, np.ndarray], rows: Sequence[Prediction]) -> str | None:
    """Return the measure whose rho exceeds that of every other one with an interval that excludes 0; None if there is none."""
    best = max(
        (p for p in rows if p.rho.value is not None),
        key=lambda prediction: prediction.rho.value or 0.0,
        default=None,
    )
    if best is None:
        return None
    for other in rows:
        if other.measure != best.measure and other.rho.value is not None:
            differences = drawn[best.measure] - drawn[other.measure]
            if np.nanquantile(differences, 0.025) <= 0:
                return None
    return best.measure
