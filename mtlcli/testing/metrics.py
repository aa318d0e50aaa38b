"""The contract of metrics."""

import warnings

import numpy as np

from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Decomposed, Metric
from mtlcli.tasks.targets import Arrays, Ragged, Target, concat
from mtlcli.testing.common import checked_options, expect


def check_metric(plugin: type[Metric], task: TaskFacts, **options: object) -> None:
    """Check a metric with these options on rows of `task`: `GRADES` for a metric of classes, `SCORES` for a metric of scores.

    - `measures` names kinds of targets, among them that of the task;
    - each resample has one finite value within `bounds`, and perfect predictions have the best value;
    - constant rows and single rows have a value, never NaN, without a warning;
    - the value of a resample equals that of its rows repeated, whatever their order and the other resamples;
    - counts may be fractions, for rows with weights: a common factor of all counts changes nothing;
    - without probabilities the value is the same, unless `reads_probabilities` says that the metric reads them;
    - the statistics of a decomposed metric are finite numbers of each row, and the score of their sum is the metric;
    - the inputs are not changed.
    """
    settings = checked_options(plugin, Metric, 1, options)
    name, metric, target = plugin.__name__, plugin(task, **settings), task.target
    measures = getattr(plugin, "measures", None)
    expect(
        isinstance(measures, frozenset) and target.kind in measures,
        f"{name}.measures: expected a frozenset of kinds of targets with {target.kind!r} in it, found {measures!r}",
    )
    worst, best = metric.bounds
    expect(
        (best > worst) == metric.higher_is_better,
        f"{name}.bounds: expected (worst, best) with higher_is_better {metric.higher_is_better}, found {metric.bounds}",
    )
    random = np.random.default_rng(0)
    predicted, gold = _made_up(target, random, 30)
    # The rows themselves, and ten bootstrap resamples as counts of each row.
    counts = np.concatenate([np.ones((1, 30), dtype=np.int64), random.multinomial(30, np.full(30, 1 / 30), size=10)])
    values = _measure(metric, predicted, gold, counts)
    drawn = [np.repeat(np.arange(30), count) for count in counts]
    repeated = [_measure_once(metric, predicted.take(rows), gold.take(rows)) for rows in drawn]
    expect(
        np.allclose(values, repeated, rtol=1e-9, atol=1e-12),
        f"{name}: expected the value of the repeated rows, {repeated}; found {values.tolist()}",
    )
    # A metric that accumulates over rows or resamples must not depend on their order.
    order = random.permutation(30)
    shuffled = _measure(metric, predicted.take(order), gold.take(order), counts[:, order])
    expect(np.allclose(values, shuffled, rtol=1e-9, atol=1e-12), f"{name}: the value depends on the order of the rows")
    alone = [_measure(metric, predicted, gold, count[None])[0] for count in counts]
    expect(np.allclose(values, alone, rtol=1e-9, atol=1e-12), f"{name}: a resample's value depends on the others")
    if "probabilities" in predicted and not metric.reads_probabilities:
        fields = {field: array for field, array in predicted.fields.items() if field != "probabilities"}
        answers = _measure(metric, Ragged(fields, predicted.starts), gold, counts)
        expect(
            np.allclose(values, answers, rtol=1e-9, atol=1e-12),
            f"{name}: the value depends on probabilities; expected reads_probabilities = True",
        )
    if isinstance(metric, Decomposed):
        _check_statistics(name, metric, predicted, gold, values[0])
    labeled = gold.take(target.units(gold) > 0)
    perfect = _measure_once(metric, target.perfect(labeled), labeled)
    expect(np.isclose(perfect, best), f"{name}: expected {best} for perfect predictions, found {perfect}")
    # Single and constant rows: the variance of a correlation and the denominator of an F1 are 0.
    three = target.examples(3)
    single, same = three.take([1]), three.take([1, 1, 1])
    for first, second in ((single, single), (single, three.take([2])), (same, same), (same, three)):
        n, starts = len(first), target.perfect(first).starts
        if starts is not None and not np.array_equal(starts, np.asarray(second.starts)):
            continue  # predictions have the items of the labels
        _measure(metric, target.perfect(first), second, np.ones((1, n), dtype=np.int64))
        _measure(metric, target.perfect(second), first, n * np.eye(n, dtype=np.int64))
    try:
        halves = _measure(metric, predicted, gold, counts / 2)
    except (TypeError, IndexError) as error:
        raise AssertionError(f"{name}: expected to accept counts that are fractions, found {error}") from error
    expect(np.allclose(values, halves, rtol=1e-9, atol=1e-12), f"{name}: half of all counts changes the value")


def _made_up(target: Target, random: np.random.Generator, n: int) -> tuple[Arrays, Arrays]:
    """Return predictions and labels of n rows: with ties, with noise on scores, and with a label that training never saw."""
    examples = target.examples(n)
    gold = examples.take(random.integers(n, size=n))
    unseen = target.gold_from_json([None])
    # An unknown score is NaN, which metrics of scores do not have to accept.
    if all(np.isfinite(array).all() for array in unseen.fields.values()):
        gold = concat([gold.take(slice(1, None)), unseen])
    predicted = target.perfect(examples).take(random.integers(n, size=n))
    if predicted.starts is not None and gold.starts is not None:
        fields = {
            name: array[random.integers(len(array), size=int(gold.starts[-1]))]
            for name, array in examples.fields.items()
        }
        predicted = Ragged(fields, gold.starts)
    noisy = {
        name: array + random.normal(size=array.shape) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in predicted.fields.items()
    }
    if target.labels and "index" in noisy and "probabilities" not in noisy:
        shares = random.dirichlet(np.ones(len(target.labels)), size=n)
        places = noisy["index"] == np.arange(len(target.labels))[:, None]
        noisy["probabilities"] = (shares + places.T) / 2  # the predicted class has the largest share
    return Ragged(noisy, predicted.starts), gold


def _check_statistics(name: str, metric: Decomposed, predicted: Arrays, gold: Arrays, value: float) -> None:
    statistics = metric.statistics(predicted, gold)
    expect(
        statistics.ndim == 2 and len(statistics) == len(gold) and statistics.dtype == np.float64,
        f"{name}.statistics: expected numbers of each row ({len(gold)}, s) float64, found {statistics.shape} {statistics.dtype}",
    )
    expect(np.isfinite(statistics).all(), f"{name}.statistics: expected finite numbers, found {statistics.tolist()}")
    score = metric.score(statistics.sum(axis=0)[None])
    expect(
        np.allclose(score, value, rtol=1e-9), f"{name}.score: expected {value} for the sum of all rows, found {score}"
    )


def _measure_once(metric: Metric, predicted: Arrays, gold: Arrays) -> float:
    return float(_measure(metric, predicted, gold, np.ones((1, len(gold)), dtype=np.int64))[0])


def _measure(metric: Metric, predicted: Arrays, gold: Arrays, counts: np.ndarray) -> np.ndarray:
    name, arrays = type(metric).__name__, [*predicted.fields.values(), *gold.fields.values(), counts]
    before = [array.copy() for array in arrays]
    shown = f"{[array.tolist() for array in arrays[:-1]]}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy only warns about a division by zero
        try:
            values = metric.bind(predicted, gold).values(counts)
        except RuntimeWarning as warning:
            raise AssertionError(f"{name}: {warning} for predictions and labels {shown}") from warning
    expect(
        isinstance(values, np.ndarray) and values.shape == (len(counts),),
        f"{name}: expected values ({len(counts)},), found {values!r}",
    )
    low, high = sorted(metric.bounds)
    expect(
        bool(np.isfinite(values).all()) and bool((values >= low).all()) and bool((values <= high).all()),
        f"{name}: expected numbers from {low} to {high} for predictions and labels {shown}, found {values.tolist()}",
    )
    same = all(np.array_equal(array, old) for array, old in zip(arrays, before, strict=True))
    expect(same, f"{name} changes its inputs")
    return values
