"""Student's t distribution against scipy."""

import pytest
from scipy import stats

from mtlcli.statistics.student import t_interval, t_probability, t_quantile, t_test


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30])
def test_probabilities_and_quantiles_are_those_of_scipy(freedom):
    for t in (-3.0, -0.4, 0.0, 1.7, 12.0):
        assert t_probability(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)
    for probability in (0.025, 0.5, 0.9, 0.975):
        assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), abs=1e-8)


def test_the_interval_of_three_values():
    # mean 2, deviation 1, t(.975, 2) = 4.3027: 2 +- 4.3027 / sqrt(3)
    assert t_interval([1.0, 2.0, 3.0]) == (pytest.approx(-0.4841, abs=1e-4), pytest.approx(4.4841, abs=1e-4))
    assert t_interval([1.0]) is None


def test_the_test_of_a_mean_of_zero_is_that_of_scipy():
    values = [0.3, 1.1, -0.2, 0.9]
    assert t_test(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert (t_test([1.0]), t_test([0.0, 0.0]), t_test([2.0, 2.0])) == (None, 1.0, 0.0)
