"""LogME: the evidence of a case by hand, and against the density of a normal distribution."""

import numpy as np
import pytest
from scipy import stats

from mtlcli.affinity.logme import evidence, log_me

F = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0], [2.0, 1.0]])
Y = np.array([1.0, 0.0, 1.0, 0.0, 1.0])


def density(features, target, alpha, beta):
    """The log density per row of the target under y = F w + noise, w normal with precision alpha."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    return stats.multivariate_normal(np.zeros(len(target)), covariance).logpdf(target) / len(target)


def test_five_rows_by_hand():
    value, alpha, beta = evidence(F, Y)
    assert (value, alpha, beta) == (
        pytest.approx(-0.84678, abs=1e-5),
        pytest.approx(6.654, abs=1e-3),
        pytest.approx(6.324, abs=1e-3),
    )
    assert value == pytest.approx(density(F, Y, alpha, beta), abs=1e-9)


def test_fewer_rows_than_features_have_the_evidence_of_their_density():
    generator = np.random.default_rng(3)
    features = generator.standard_normal((12, 20)) * np.geomspace(3, 0.01, 20)
    target = features @ generator.standard_normal(20) + 0.5 * generator.standard_normal(12)
    value, alpha, beta = evidence(features, target)
    assert value == pytest.approx(density(features, target, alpha, beta), abs=1e-6)


def test_the_evidence_is_the_largest_over_both_precisions():
    generator = np.random.default_rng(2)
    features = generator.standard_normal((60, 4))
    target = features @ generator.standard_normal(4) + generator.standard_normal(60)
    value, alpha, beta = evidence(features, target)
    for factors in ((1.2, 1), (0.8, 1), (1, 1.2), (1, 0.8)):
        assert density(features, target, alpha * factors[0], beta * factors[1]) < value


def test_a_shift_or_a_scale_of_the_target_changes_nothing():
    generator = np.random.default_rng(3)
    features, target = generator.standard_normal((30, 5)), generator.standard_normal((30, 1))
    assert log_me(features, 3 * target - 7) == pytest.approx(log_me(features, target))


def test_features_that_tell_the_classes_have_more_evidence():
    generator = np.random.default_rng(4)
    classes = np.eye(3)[generator.integers(3, size=90)]
    assert (
        log_me(classes + 0.1 * generator.standard_normal((90, 3)), classes)
        > log_me(generator.standard_normal((90, 3)), classes) + 0.5
    )


def test_a_target_in_the_span_of_the_features_stays_finite():
    assert np.isfinite(log_me(F, (F @ np.array([1.0, -2.0]))[:, None]))
    assert np.isnan(log_me(F, np.ones((5, 1))))
