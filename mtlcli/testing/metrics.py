"""The contract of metrics."""

import warnings

import numpy as np

from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Metric
from mtlcli.testing.common import checked_options, expect


def check_metric(plugin: type[Metric], task: TaskFacts) -> None:
    """Check a metric on rows of `task`: `GRADES` for a metric of classes, `SCORES` for a metric of scores.

    - each resample has one finite value within `bounds`, and perfect predictions have the best value;
    - constant rows and single rows have a value, never NaN, without a warning;
    - the value of a resample equals that of its rows repeated, whatever their order and the other resamples;
    - the inputs are not changed.
    """
    checked_options(plugin, Metric, 1, {})
    name, metric = plugin.__name__, plugin(task)
    worst, best = metric.bounds
    expect(
        (best > worst) == metric.higher_is_better,
        f"{name}.bounds: expected (worst, best) with higher_is_better {metric.higher_is_better}, found {metric.bounds}",
    )
    random = np.random.default_rng(0)
    predictions, targets = _predicted(task, random, 30)
    counts = np.concatenate([np.ones((1, 30), dtype=np.int64), random.multinomial(30, np.full(30, 1 / 30), size=10)])
    values = _measure(metric, predictions, targets, counts)
    repeated = [
        _measure(
            metric, predictions.repeat(count), targets.repeat(count), np.ones((1, int(count.sum())), dtype=np.int64)
        )[0]
        for count in counts
    ]
    expect(
        np.allclose(values, repeated, rtol=1e-9, atol=1e-12),
        f"{name}: expected the value of the repeated rows, {repeated}; found {values.tolist()}",
    )
    order = random.permutation(30)
    shuffled = _measure(metric, predictions[order], targets[order], counts[:, order])
    expect(np.allclose(values, shuffled, rtol=1e-9, atol=1e-12), f"{name}: the value depends on the order of the rows")
    alone = [_measure(metric, predictions, targets, count[None])[0] for count in counts]
    expect(np.allclose(values, alone, rtol=1e-9, atol=1e-12), f"{name}: a resample's value depends on the others")
    known = targets[targets >= 0]
    perfect = _measure(metric, known, known, np.ones((1, len(known)), dtype=np.int64))[0]
    expect(np.isclose(perfect, best), f"{name}: expected {best} for perfect predictions, found {perfect}")
    one = np.asarray([1], dtype=targets.dtype)
    for some, others in (
        (one, one),
        (one, one * 2),
        (one.repeat(3), one.repeat(3)),
        (one.repeat(3), np.arange(3) * one),
    ):
        _measure(metric, some, others, np.ones((1, len(some)), dtype=np.int64))
        _measure(metric, others, some, len(some) * np.eye(len(some), dtype=np.int64))


def _predicted(task: TaskFacts, random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    if task.labels is None:
        low, high = task.score_range or (0.0, 1.0)
        targets = random.uniform(low, high, size=n).round(1)
        return targets + random.normal(size=n), targets
    return random.integers(len(task.labels), size=n), random.integers(-1, len(task.labels), size=n)


def _measure(metric: Metric, predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    name, arrays = type(metric).__name__, (predictions, targets, counts)
    before = [array.copy() for array in arrays]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            values = metric.values(*arrays)
        except RuntimeWarning as warning:
            raise AssertionError(
                f"{name}: {warning} for predictions {predictions.tolist()} and targets {targets.tolist()}"
            ) from warning
    expect(
        isinstance(values, np.ndarray) and values.shape == (len(counts),),
        f"{name}: expected values ({len(counts)},), found {values!r}",
    )
    low, high = sorted(metric.bounds)
    expect(
        bool(np.isfinite(values).all()) and bool((values >= low).all()) and bool((values <= high).all()),
        f"{name}: expected numbers from {low} to {high} for predictions {predictions.tolist()} and targets "
        f"{targets.tolist()}, found {values.tolist()}",
    )
    same = all(np.array_equal(array, old) for array, old in zip(arrays, before, strict=True))
    expect(same, f"{name} changes its inputs")
    return values
