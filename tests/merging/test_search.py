"""The search of coefficients on dev."""

from mtlcli.merging.merger import Coefficients
from mtlcli.merging.search import FACTORS, SCALINGS, search


def best_of(trials):
    return max(trials, key=lambda trial: trial.score).coefficients


def test_it_reaches_the_best_scaling_and_then_the_best_weights():
    def score(tried: Coefficients) -> float:
        return -abs(tried.scaling - 0.7) - abs(tried.weights[0] - 0.5) - abs(tried.weights[1] - 2)

    trials = list(search("task-arithmetic", Coefficients((1.0, 1.0)), score, weights=True, scaling=True))
    assert len(trials) == len(SCALINGS["task-arithmetic"]) + 2 * len(FACTORS)
    assert best_of(trials) == Coefficients((0.5, 2.0), 0.7)


def test_given_coefficients_stay():
    trials = list(search("ties", Coefficients((1.0, 3.0), 1.5), lambda _: 1.0, weights=False, scaling=False))
    assert [trial.coefficients for trial in trials] == [Coefficients((1.0, 3.0), 1.5)]
    trials = list(search("ties", Coefficients((1.0, 3.0)), lambda _: 1.0, weights=False, scaling=True))
    assert {trial.coefficients.weights for trial in trials} == {(1.0, 3.0)}
    assert [trial.coefficients.scaling for trial in trials] == list(SCALINGS["ties"])


def test_of_equal_scores_the_first_is_best():
    trials = list(search("average", Coefficients((1.0, 1.0)), lambda _: 0.5, weights=True, scaling=True))
    assert best_of(trials) == Coefficients((1.0, 1.0))


def test_a_single_run_has_no_weight_to_choose():
    trials = list(search("average", Coefficients((1.0,)), lambda _: 0.5, weights=True, scaling=True))
    assert len(trials) == 1
