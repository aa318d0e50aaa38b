import numpy as np
import pytest
from scipy import stats

from labels import measured
from mtlcli.facts import TaskFacts
from mtlcli.metrics.spearman import Spearman
from mtlcli.tasks.targets import Score

METRIC = Spearman(TaskFacts("sts", rows=4, batches=1, target=Score(0.0, 5.0, 2.5, 1.0)))


def spearman(predictions, targets):
    predictions, targets = np.array(predictions, dtype=float), np.array(targets, dtype=float)
    return measured(METRIC, predictions, targets, np.ones((1, len(targets)), dtype=int))[0]


def test_spearman_of_four_rows_by_hand():
    # one swap of neighbours: 1 - 6 * (1 + 1) / (4 * 15)
    assert spearman([1, 2, 4, 3], [1, 2, 3, 4]) == pytest.approx(0.8, abs=1e-15)


def test_only_the_order_matters():
    assert spearman([1, 10, 1000], [0.1, 0.2, 0.3]) == pytest.approx(1.0, abs=1e-15)
    assert spearman([1, 10, 1000], [0.3, 0.2, 0.1]) == pytest.approx(-1.0, abs=1e-15)


def test_equal_scores_share_the_mean_of_their_ranks():
    # ranks (1.5, 1.5, 3) and (1, 2, 3): deviations (-.5, -.5, 1) and (-1, 0, 1): 1.5 / sqrt(1.5 * 2)
    assert spearman([0, 0, 5], [1, 2, 3]) == pytest.approx(1.5 / np.sqrt(3), abs=1e-15)


def test_a_row_drawn_twice_is_a_tie():
    # rows 1, 2, 2, 3 of (1, 2, 3) and (1, 3, 2): ranks (1, 2.5, 2.5, 4) and (1, 3.5, 3.5, 2)
    # deviations (-1.5, 0, 0, 1.5) and (-1.5, 1, 1, -.5): 1.5 / sqrt(4.5 * 4.5)
    value = measured(METRIC, np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), np.array([[1, 2, 1]]))
    assert value == pytest.approx(1 / 3, abs=1e-15)


def test_constant_predictions_or_targets_have_no_correlation():
    assert spearman([2.5, 2.5, 2.5], [1, 2, 3]) == 0.0
    assert spearman([1, 2, 3], [0.1, 0.1, 0.1]) == 0.0


def test_one_row_has_no_correlation():
    assert spearman([1], [1]) == 0.0


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_spearman_is_that_of_scipy_on_the_repeated_rows(decimals):
    generator = np.random.default_rng(0)
    predictions = generator.normal(size=40).round(decimals)
    targets = (predictions + generator.normal(size=40)).round(decimals)
    counts = np.concatenate([np.ones((1, 40), dtype=int), generator.multinomial(40, np.full(40, 1 / 40), size=50)])
    expected = [stats.spearmanr(predictions.repeat(count), targets.repeat(count)).statistic for count in counts]
    assert measured(METRIC, predictions, targets, counts) == pytest.approx(expected, abs=1e-13)
