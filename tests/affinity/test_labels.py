"""Statistics of labels: entropy and kurtosis worked by hand."""

import numpy as np
import pytest

from mtlcli.affinity.labels import entropy_of, excess_kurtosis, label_statistics, share_kurtosis
from mtlcli.tasks.targets import Classes, Ragged, Score


def test_entropy_and_kurtosis_of_four_shares():
    counts = np.array([50, 30, 15, 5])
    assert entropy_of(counts / 100) == pytest.approx(1.6477, abs=5e-5)
    # deviations from 1/4: .25, .05, -.1, -.2; mean of squares .0288, of fourth powers .0014
    assert share_kurtosis(counts) == pytest.approx(1.6975, abs=5e-5)


def test_the_kurtosis_of_two_classes_and_of_equal_shares_says_nothing():
    assert share_kurtosis(np.array([3, 9])) is None
    assert share_kurtosis(np.array([7, 7, 7])) is None


def test_a_uniform_score_has_a_kurtosis_below_that_of_the_normal_distribution():
    # values -1 and 1: fourth moment 1, variance 1: 1 - 3
    assert excess_kurtosis(np.array([-1.0, 1.0])) == pytest.approx(-2.0)
    # -1, 0, 0, 1: variance 1/2, fourth moment 1/2: 2 - 3
    assert excess_kurtosis(np.array([-1.0, 0.0, 0.0, 1.0])) == pytest.approx(-1.0)
    assert excess_kurtosis(np.array([2.0, 2.0])) is None


def test_classes_have_an_entropy_and_scores_a_kurtosis():
    classes = Classes({name: name for name in "abcd"})
    gold = Ragged({"index": np.repeat([0, 1, 2, 3], [10, 6, 3, 1])})
    found = label_statistics(classes, gold)
    assert (found.rows, found.classes) == (20, 4)
    assert found.normalized_entropy == pytest.approx(0.8239, abs=5e-5)
    assert found.score_kurtosis is None
    scores = label_statistics(Score(0.0, 5.0), Ragged({"value": np.array([1.0, 2.0, 2.0, 3.0])}))
    assert scores.classes is None
    assert scores.score_kurtosis == pytest.approx(-1.0)
