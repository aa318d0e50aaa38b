"""What predicts the gains: rank correlations, their intervals, and the most that a predictor can reach."""

import numpy as np
import pytest
from scipy import stats

from mtlcli.affinity.prediction import (
    _moved,
    gain_reliability,
    predictions,
    ranks,
    spearman,
    spearman_brown,
    winner,
    within_receivers,
)


def matrices(seed, seeds=3, k=5, noise=1.0):
    """Gains of random pairs in several seeds, and the true ones, without a diagonal."""
    generator = np.random.default_rng(seed)
    truth = generator.standard_normal((k, k))
    truth[np.diag_indices(k)] = np.nan
    return truth, truth + noise * generator.standard_normal((seeds, k, k))


def test_ranks_and_correlations_are_those_of_scipy():
    generator = np.random.default_rng(1)
    x, y = generator.integers(5, size=20).astype(float), generator.standard_normal(20)
    assert ranks(x) == pytest.approx(stats.rankdata(x) - 1)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_constants_and_two_values_have_no_correlation():
    assert spearman(np.ones(4), np.arange(4.0)) is None
    assert spearman(np.arange(2.0), np.arange(2.0)) is None


def test_within_receivers_ignores_which_task_gains_at_all():
    # Column means decide the order of all pairs; within each column the order is reversed.
    x = np.array([[np.nan, 10, 20, 30], [1, np.nan, 21, 31], [2, 11, np.nan, 32], [3, 12, 22, np.nan]])
    y = np.array([[np.nan, 12, 22, 32], [3, np.nan, 21, 31], [2, 11, np.nan, 30], [1, 10, 20, np.nan]])
    assert within_receivers(x, y) == pytest.approx(-1.0)
    kept = np.isfinite(x)
    assert spearman(x[kept], y[kept]) > 0.5


def test_gains_that_are_the_measure_are_predicted_perfectly():
    truth, _ = matrices(3)
    found, _ = predictions({"x": truth}, np.stack([truth] * 3), resamples=100)
    assert (found[0].rho.value, found[0].rho.low, found[0].rho.high) == (pytest.approx(1.0),) * 3
    assert found[0].ceiling == pytest.approx(1.0)


def test_the_interval_within_receivers_accounts_for_the_choice_of_sources():
    truth, _ = matrices(3, k=6)
    other, _ = matrices(4, k=6)
    # Gains without noise: seeds alone would give an interval without width.
    found, _ = predictions({"x": other}, np.stack([truth] * 2), resamples=100)
    assert found[0].within.high - found[0].within.low > 0.2


def test_three_tasks_have_no_correlation():
    truth, gains = matrices(3, k=3)
    assert predictions({"x": truth}, gains) == ([], {})


def test_intervals_of_unrelated_measures_hold_zero_in_most_cases():
    covered = 0
    for seed in range(25):
        truth, _ = matrices(seed)
        _, gains = matrices(1000 + seed)
        found, _ = predictions({"x": truth}, gains, resamples=60, seed=seed)
        covered += found[0].rho.low <= 0 <= found[0].rho.high
    assert 20 <= covered <= 25


def test_redrawn_means_spread_as_much_as_means_of_new_seeds_would():
    generator = np.random.default_rng(1)
    gains = generator.standard_normal((3, 1, 400))
    mean = gains.mean(0)
    drawn = np.stack([_moved(gains, mean, generator.integers(3, size=(3,))) for _ in range(400)])
    # The variance of a mean of three values of variance 1; without the correction it would be 2/3 of that.
    assert drawn.var(0).mean() == pytest.approx(1 / 3, rel=0.12)


def test_the_interval_over_tasks_is_given_from_six_tasks_on():
    assert predictions({"x": matrices(1)[0]}, matrices(1)[1], resamples=20)[0][0].over_tasks is None
    six = matrices(1, k=6)
    assert predictions({"x": six[0]}, six[1], resamples=20)[0][0].over_tasks is not None


def test_the_formula_of_spearman_and_brown_for_equal_and_unequal_halves():
    # 2 r / (1 + r)
    assert spearman_brown(0.49, 1, 1) == pytest.approx(0.98 / 1.49)
    # One repetition with reliability .4: two have .8 / 1.4, three 1.2 / 1.8; the correlation is sqrt(.4 * .8 / 1.4).
    assert spearman_brown(np.sqrt(0.4 * 0.8 / 1.4), 1, 2) == pytest.approx(1.2 / 1.8)
    assert spearman_brown(-0.3, 1, 2) == 0.0


def test_gains_that_repeat_are_reliable_and_noise_is_not():
    _, gains = matrices(2, seeds=4, k=6, noise=0.2)
    found = gain_reliability(gains)
    assert found.value > 0.9
    assert found.repeats
    noise = gain_reliability(np.random.default_rng(7).standard_normal((4, 6, 6)))
    assert noise.low == 0.0
    assert not noise.repeats
    assert gain_reliability(gains[:1]) is None


def test_the_ceiling_falls_with_the_reliability_of_the_measure():
    truth, gains = matrices(2, seeds=4, k=6, noise=0.2)
    sure, unsure = (
        predictions({"x": truth}, gains, reliabilities={"x": own}, resamples=10)[0][0].ceiling for own in (None, 0.25)
    )
    assert unsure == pytest.approx(0.5 * sure)


def test_a_winner_is_named_only_where_it_is_clearly_better():
    truth, gains = matrices(5, k=8, noise=0.1)
    other, _ = matrices(6, k=8)
    near = truth + 0.01 * np.random.default_rng(1).standard_normal(truth.shape)
    found, drawn = predictions({"good": truth, "bad": other}, gains, resamples=200)
    assert winner(drawn, found) == "good"
    found, drawn = predictions({"good": truth, "near": near}, gains, resamples=200)
    assert winner(drawn, found) is None
