"""Scores that differ by rounding alone are constant, in every correlation."""

import numpy as np
import pytest

from mtlcli.facts import TaskFacts
from mtlcli.metrics.pearson import Pearson
from mtlcli.metrics.rounding import are_constant, is_constant
from mtlcli.metrics.spearman import Spearman
from mtlcli.statistics.bootstrap import estimate
from mtlcli.statistics.paired import paired
from mtlcli.tasks.targets import Classes, Ragged, Score

SCORES = TaskFacts("sts", rows=4, batches=1, target=Score(0.0, 5.0, 2.5, 1.5))
ALIKE = 2.5 + 1.5 * np.array([0.3, 0.3 + 2**-23, 0.3 - 2**-24])  # what heads make of outputs that are apart by rounding


def scores(values) -> Ragged:
    return Ragged({"value": np.asarray(values, dtype=float)})


CORRELATIONS = pytest.mark.parametrize("correlation", [Pearson, Spearman])


def value(correlation, predictions, targets, counts=None, **changes):
    metric = correlation(SCORES)
    for name, changed in changes.items():
        setattr(metric, name, changed)
    counts = np.ones((1, len(targets)), dtype=int) if counts is None else np.array(counts)
    return metric.bind(scores(predictions), scores(targets)).values(counts).tolist()


@CORRELATIONS
def test_predictions_or_targets_that_differ_by_rounding_have_no_correlation(correlation):
    assert value(correlation, ALIKE, [1, 5, 3]) == [0.0]
    assert value(correlation, [1, 5, 3], ALIKE) == [0.0]
    assert value(correlation, ALIKE[:2], [5, 1]) == [0.0]  # two rows of one text


@CORRELATIONS
def test_a_resample_of_rows_that_differ_by_rounding_has_no_correlation_and_the_others_keep_theirs(correlation):
    predictions, targets = [*ALIKE[:2], 4.0], [5.0, 1.0, 3.0]
    both, first_and_last, exact = value(correlation, predictions, targets, [[2, 1, 0], [1, 0, 2], [0, 3, 0]])
    assert (both, exact) == (0.0, 0.0)
    assert first_and_last == pytest.approx(-1.0, abs=1e-15)


@CORRELATIONS
def test_the_interval_of_predictions_that_differ_by_rounding_is_zero_and_says_why(correlation):
    found = estimate(correlation(SCORES), scores(ALIKE), scores([1.0, 5.0, 3.0]), resamples=200)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.degenerate == "predictions are constant"
    assert estimate(correlation(SCORES), scores([1.0, 5.0, 3.0]), scores(ALIKE)).degenerate == "labels are constant"


@CORRELATIONS
def test_a_difference_of_a_thousandth_of_a_standard_deviation_is_no_rounding(correlation):
    assert value(correlation, [2.5, 2.5015, 2.503], [1, 2, 3]) == pytest.approx([1.0], abs=1e-12)


def test_rounding_is_measured_in_standard_deviations_and_not_from_zero():
    """Seconds since 1970, a day apart from each other: far from zero, and not constant."""
    moments = np.array([1.7e9, 1.7e9 + 86400])
    assert is_constant(scores([1.0, 1.0 + 1e-7]), SCORES)
    times = TaskFacts("times", rows=4, batches=1, target=Score(1.6e9, 1.8e9, 1.7e9, 5e6))
    assert not is_constant(scores(moments), times)
    assert is_constant(scores(moments[:1] + np.array([0.0, 0.5])), times)


def test_bf16_rounds_an_output_relative_to_its_size():
    one_step, small = 2.5 + 1.5 * np.array([1.5, 1.5 + 2**-7]), 2.5 + 1.5 * np.array([0.01, 0.03])
    ones = np.ones((1, 2), dtype=int)
    assert not are_constant(one_step, ones, SCORES)
    assert are_constant(one_step, ones, SCORES, "bf16")
    assert not are_constant(small, ones, SCORES, "bf16")
    assert value(Pearson, one_step, [1, 5]) == pytest.approx([1.0])
    assert value(Pearson, one_step, [1, 5], precision="bf16") == [0.0]


def test_classes_are_constant_only_where_they_are_equal():
    labels = TaskFacts("sst", rows=4, batches=1, target=Classes({"bad": "bad", "good": "good"}))
    assert is_constant(Ragged({"index": np.array([1, 1])}), labels)
    assert not is_constant(Ragged({"index": np.array([0, 1])}), labels)


@CORRELATIONS
def test_a_run_that_is_constant_within_rounding_is_compared_as_a_constant_one(correlation):
    generator = np.random.default_rng(0)
    targets = generator.normal(size=50)
    other = targets + generator.normal(size=50)
    flat = np.full(50, ALIKE[0])
    noisy = flat + 1.5 * 2**-23 * generator.integers(3, size=50)
    exact, found = (
        paired(correlation(SCORES), [scores(run)], [scores(other)], scores(targets), resamples=200)
        for run in (flat, noisy)
    )
    assert (found.first, found.low, found.high, found.p) == (0.0, exact.low, exact.high, exact.p)
