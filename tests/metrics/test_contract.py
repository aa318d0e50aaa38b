"""What every metric promises, over one table of all of them."""

import warnings

import numpy as np
import pytest

from labels import estimated, measured
from mtlcli.facts import TaskFacts
from mtlcli.metrics.accuracy import Accuracy
from mtlcli.metrics.class_metrics import MacroF1, Matthews, WeightedF1
from mtlcli.metrics.errors import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError
from mtlcli.metrics.kendall import Kendall
from mtlcli.metrics.pearson import Pearson
from mtlcli.metrics.spearman import Spearman
from mtlcli.tasks.targets import Classes, Score

CLASSES = TaskFacts("topics", rows=100, batches=10, target=Classes.named("a", "b", "c"))
SCORES = TaskFacts("sts", rows=100, batches=10, target=Score(0.0, 5.0, 2.5, 1.0))
METRICS = [
    *(metric(CLASSES) for metric in (Accuracy, MacroF1, Matthews, WeightedF1)),
    *(metric(SCORES) for metric in (Pearson, Spearman, Kendall)),
    *(metric(SCORES) for metric in (MeanSquaredError, RootMeanSquaredError, MeanAbsoluteError, R2)),
]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)


def rows(metric, n, seed=0):
    generator = np.random.default_rng(seed)
    if metric.task.target.kind == "score":
        targets = generator.uniform(0, 5, size=n).round(1)
        return targets + generator.normal(size=n), targets
    return generator.integers(3, size=n), generator.integers(-1, 3, size=n)


def draws(n, resamples=20):
    return np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), size=resamples)


def awkward(metric):
    """Inputs that break careless formulas."""
    if metric.task.target.kind != "score":
        yield from ([[0], [0]], [[0], [2]], [[1, 1], [-1, -1]], [[0, 0, 0], [2, 2, 2]], [[2, 0, 2], [0, 1, -1]])
        return
    scores = np.array([0.1, 0.7, 1 / 3, 0.7])
    for scale in (0.0, 1e-15, 1e-6, 1.0, 1e6, 1e15):
        yield scale * scores, scores
        yield scores, scale * scores[::-1]
        yield scale + scores, scale - scores
        yield np.array([scale]), np.array([1.0])


@every_metric
def test_one_finite_number_between_the_bounds_for_each_resample(metric):
    values = measured(metric, *rows(metric, 30), draws(30))
    assert values.shape == (20,)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert (values >= min(metric.bounds)).all()
    assert (values <= max(metric.bounds)).all()


@every_metric
def test_perfect_predictions_reach_the_best_value_in_every_resample(metric):
    targets = np.arange(3.0) if metric.task.target.kind == "score" else np.arange(3)
    values = measured(metric, targets, targets, np.array([[1, 1, 1], [2, 1, 0], [0, 1, 2]]))
    assert values == pytest.approx([metric.bounds[1]] * 3, abs=1e-15)


@every_metric
def test_awkward_rows_give_a_finite_number_and_no_warning(metric):
    for predictions, targets in awkward(metric):
        n = len(targets)
        counts = np.concatenate([np.ones((1, n), dtype=int), n * np.eye(n, dtype=int), draws(n)])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = measured(metric, np.array(predictions), np.array(targets), counts)
        assert np.isfinite(values).all()
        assert (values >= min(metric.bounds)).all()
        assert (values <= max(metric.bounds)).all()


@every_metric
def test_the_order_of_the_rows_is_irrelevant(metric):
    (predictions, targets), counts = rows(metric, 30), draws(30)
    shuffled = np.random.default_rng(2).permutation(30)
    values = measured(metric, predictions[shuffled], targets[shuffled], counts[:, shuffled])
    assert values == pytest.approx(measured(metric, predictions, targets, counts), abs=1e-13)


@every_metric
def test_a_resample_is_the_rows_repeated_whatever_its_size(metric):
    (predictions, targets), counts = rows(metric, 30), np.random.default_rng(2).integers(4, size=(20, 30))
    repeated = [
        measured(metric, predictions.repeat(count), targets.repeat(count), np.ones((1, count.sum()), dtype=int))[0]
        for count in counts
    ]
    assert measured(metric, predictions, targets, counts) == pytest.approx(repeated, abs=1e-13)


@every_metric
def test_a_resample_does_not_depend_on_the_others(metric):
    (predictions, targets), counts = rows(metric, 30), draws(30)
    alone = [measured(metric, predictions, targets, count[None])[0] for count in counts]
    assert measured(metric, predictions, targets, counts) == pytest.approx(alone, abs=1e-13)


@every_metric
def test_the_inputs_are_left_as_they_were(metric):
    (predictions, targets), counts = rows(metric, 30), draws(30)
    for array in (predictions, targets, counts):
        array.flags.writeable = False
    measured(metric, predictions, targets, counts)


@every_metric
def test_the_interval_of_every_metric_is_finite_and_in_order(metric):
    for n in (1, 2, 3, 100):
        result = estimated(metric, *rows(metric, n), resamples=200)
        assert result.n == n
        assert np.isfinite([result.value, result.low, result.high]).all()
        assert result.low <= result.high
