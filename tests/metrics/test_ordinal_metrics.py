"""Kappa, errors of ranks, and distances of distributions against worked values and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mtlcli.metrics.accuracy import Accuracy
from mtlcli.metrics.distribution import KLDivergence, TotalVariation
from mtlcli.metrics.errors import MeanAbsoluteError
from mtlcli.metrics.ordinal import QuadraticWeightedKappa, WithinOne
from mtlcli.tasks.targets import Ragged
from mtlcli.testing import MIXTURES, RANKS

GOLD, PREDICTED = [0, 1, 2, 3, 2, 1], [0, 2, 2, 3, 1, 1]


def once(metric, task, predicted, gold) -> float:
    return float(metric(task).bind(predicted, gold).values(np.ones((1, len(gold)), dtype=np.int64))[0])


def ranks(index):
    return RANKS.target.pack(index)


@pytest.mark.parametrize(
    ("metric", "value"),
    [(MeanAbsoluteError, 1 / 3), (QuadraticWeightedKappa, 1 - (2 / 9) / (11 / 9)), (WithinOne, 1.0), (Accuracy, 4 / 6)],
)
def test_metrics_of_ranks_by_hand(metric, value):
    assert once(metric, RANKS, ranks(PREDICTED), ranks(GOLD)) == pytest.approx(value)


def test_kappa_on_resamples_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    gold = random.integers(4, size=60)
    predicted = np.clip(gold + random.integers(-1, 2, size=60), 0, 3)
    counts = random.multinomial(60, np.full(60, 1 / 60), size=20)
    values = QuadraticWeightedKappa(RANKS).bind(ranks(predicted), ranks(gold)).values(counts)
    expected = [
        cohen_kappa_score(np.repeat(gold, count), np.repeat(predicted, count), weights="quadratic") for count in counts
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_kappa_of_constant_classes_is_0():
    assert once(QuadraticWeightedKappa, RANKS, ranks([2, 2, 2]), ranks([2, 2, 2])) == 0.0
    assert once(QuadraticWeightedKappa, RANKS, ranks([2, 2, 2]), ranks([1, 2, 3])) == pytest.approx(0.0)


def test_distances_of_distributions_by_hand():
    gold = Ragged({"probabilities": np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])})
    predicted = Ragged({"index": np.array([0, 1]), "probabilities": np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])})
    assert once(KLDivergence, MIXTURES, predicted, gold) == pytest.approx(0.085123 / 2, abs=1e-6)
    assert once(TotalVariation, MIXTURES, predicted, gold) == pytest.approx(0.1)
    assert once(Accuracy, MIXTURES, predicted, gold) == 1.0  # of two equally probable classes, either is right
