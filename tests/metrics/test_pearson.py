import numpy as np
import pytest
from scipy import stats

from labels import measured
from mtlcli.facts import TaskFacts
from mtlcli.metrics.pearson import Pearson
from mtlcli.tasks.targets import Score

METRIC = Pearson(TaskFacts("sts", rows=4, batches=1, target=Score(0.0, 5.0, 2.5, 1.0)))


def pearson(predictions, targets):
    predictions, targets = np.array(predictions, dtype=float), np.array(targets, dtype=float)
    return measured(METRIC, predictions, targets, np.ones((1, len(targets)), dtype=int))[0]


def test_pearson_of_three_rows_by_hand():
    # deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): 3 / sqrt(2 * 42/9)
    assert pearson([1, 2, 3], [1, 2, 4]) == pytest.approx(3 / np.sqrt(28 / 3), abs=1e-15)


def test_pearson_knows_no_scale_and_no_offset():
    assert pearson([1, 2, 3], [10, 30, 50]) == pytest.approx(1.0, abs=1e-15)
    assert pearson([1, 2, 3], [-1, -2, -3]) == pytest.approx(-1.0, abs=1e-15)


def test_constant_predictions_or_targets_have_no_correlation():
    assert pearson([2.5, 2.5, 2.5], [1, 2, 3]) == 0.0
    assert pearson([1, 2, 3], [0.1, 0.1, 0.1]) == 0.0


def test_one_row_has_no_correlation():
    assert pearson([1], [1]) == 0.0


def test_a_resample_of_one_row_drawn_often_has_no_correlation_and_not_rounding_noise():
    # 3 * 0.1 / 3 is 0.10000000000000002: a mean that no row has would leave a spread, and r = 1
    scores = np.array([0.1, 0.2])
    for times in range(1, 20):
        assert measured(METRIC, scores, scores, times * np.eye(2, dtype=int)).tolist() == [0.0, 0.0]


def test_a_large_offset_costs_no_digits():
    scores, offset = np.array([1.0, 2.0, 4.0, 3.0]), 2.0**40
    assert pearson(scores + offset, [1, 2, 3, 4]) == pearson(scores, [1, 2, 3, 4]) == pytest.approx(0.8, abs=1e-15)


def test_an_outlier_outside_the_resample_costs_no_digits():
    predictions, targets = np.array([1e9, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0, 4.0])
    inside = measured(METRIC, predictions, targets, np.array([[0, 1, 1, 1]]))[0]
    assert inside == pytest.approx(pearson([1, 2, 3], [1, 2, 4]), abs=1e-15)
    predictions[1:] = [0.1, 0.2, 0.4]  # which 1e9 would round, unlike whole numbers
    inside = measured(METRIC, predictions, targets, np.array([[0, 1, 1, 1]]))[0]
    assert inside == pytest.approx(pearson([0.1, 0.2, 0.4], [1, 2, 4]), abs=1e-15)


def test_pearson_is_that_of_scipy_on_the_repeated_rows():
    generator = np.random.default_rng(0)
    predictions = generator.normal(size=40)
    targets = (predictions + generator.normal(size=40)).round()
    counts = np.concatenate([np.ones((1, 40), dtype=int), generator.multinomial(40, np.full(40, 1 / 40), size=50)])
    expected = [stats.pearsonr(predictions.repeat(count), targets.repeat(count)).statistic for count in counts]
    assert measured(METRIC, predictions, targets, counts) == pytest.approx(expected, abs=1e-13)
