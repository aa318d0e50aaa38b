"""Mean and standard deviation over runs."""

import pytest

from mtlcli.statistics.spread import Spread, spread_of


def test_the_deviation_of_runs_divides_by_one_less_than_their_number():
    assert spread_of([0.5, 0.7, 0.9]) == Spread(pytest.approx(0.7), pytest.approx(0.2), (0.5, 0.7, 0.9))


def test_a_single_run_has_no_deviation():
    assert spread_of([0.5]) == Spread(0.5, 0.0, (0.5,))
