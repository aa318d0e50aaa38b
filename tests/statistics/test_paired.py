"""Two runs on the same rows, and several over their seeds."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from labels import compared, measured, rows
from mtlcli.facts import TaskFacts
from mtlcli.metrics.accuracy import Accuracy
from mtlcli.metrics.class_metrics import MacroF1
from mtlcli.metrics.errors import MeanSquaredError
from mtlcli.metrics.pearson import Pearson
from mtlcli.metrics.spearman import Spearman
from mtlcli.statistics import paired as module
from mtlcli.statistics.paired import Difference, holm, holm_levels, over_seeds
from mtlcli.tasks.targets import Classes, Ragged, Score

CLASSES = TaskFacts("sst", rows=100, batches=10, target=Classes.named("bad", "good"))
SCORES = TaskFacts("sts", rows=100, batches=10, target=Score(0.0, 5.0, 2.5, 1.0))


def right(*marks: str) -> np.ndarray:
    """Predictions of runs that are right (1) in some rows; every target is 1."""
    return np.array([[int(mark) for mark in run] for run in marks])


def ones(predictions: np.ndarray) -> np.ndarray:
    return np.ones(predictions.shape[1], dtype=int)


def scores(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two runs' scores (1, n) and targets (n,); the second run is a little better."""
    chance = np.random.default_rng(seed)
    targets = chance.normal(size=n)
    return (targets + chance.normal(size=n))[None], (targets + 0.7 * chance.normal(size=n))[None], targets


# One run against one


def test_the_difference_is_second_less_first():
    first, second = right("1110"), right("1111")
    found = compared(Accuracy(CLASSES), first, second, ones(first))
    assert (found.first, found.second, found.value, found.n) == (0.75, 1.0, 0.25, 4)


def test_runs_that_predict_the_same_have_no_difference_and_p_1():
    runs = right("110100111")
    found = compared(Accuracy(CLASSES), runs, runs, ones(runs))
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_four_rows_to_none_are_no_evidence():
    """Of the 2^4 ways to swap them, 2 make as large a difference: p = 2 / 16. A bootstrap says 2 * (1 - 4/20)^20 = 0.02."""
    first, second = right("1" * 10 + "0" * 6 + "0000"), right("1" * 10 + "0" * 6 + "1111")
    assert compared(Accuracy(CLASSES), first, second, ones(first)).p == pytest.approx(0.125, abs=0.02)


def test_the_interval_is_that_of_rows_won_and_lost():
    """20 rows won and 10 lost of 100: difference 0.1, standard error sqrt(30 / 100 - 0.1^2) / 10 = 0.054, 1.96 of them 0.106."""
    first, second = right("0" * 20 + "1" * 10 + "1" * 70), right("1" * 20 + "0" * 10 + "1" * 70)
    found = compared(Accuracy(CLASSES), first, second, ones(first))
    assert [found.low, found.high] == pytest.approx([0.1 - 0.106, 0.1 + 0.106], abs=0.015)
    assert found.p == pytest.approx(stats.binomtest(20, 30).pvalue, abs=0.02)  # the sign test, exact


def test_a_planted_difference_is_found_by_every_metric():
    chance = np.random.default_rng(0)
    targets = chance.integers(3, size=300)
    worse, better = (np.where(chance.random(300) < share, targets, (targets + 1) % 3)[None] for share in (0.6, 0.8))
    for metric in (Accuracy(CLASSES), MacroF1(CLASSES)):
        found = compared(metric, worse, better, targets, resamples=500)
        assert found.p < 0.01 and 0 < found.low < 0.2 < found.high
    for metric in (Pearson(SCORES), Spearman(SCORES)):
        assert compared(metric, *scores(300), resamples=500).p < 0.01


@pytest.mark.parametrize(
    ("metric", "scale"),
    [
        (Pearson(SCORES), stats.zscore),
        (Spearman(SCORES), stats.rankdata),
        (MeanSquaredError(SCORES), lambda values: values),
    ],
    ids=["pearson", "spearman", "mean-squared-error"],
)
def test_p_is_the_share_of_all_swaps_on_one_scale(metric, scale):
    """Seven rows can be swapped in 2^7 ways, and all of them are tried here."""
    first, second, targets = scores(7, seed=4)
    a, b = scale(first[0]), scale(second[0])
    one = np.ones((1, 7), dtype=np.int64)

    def value(predictions):
        return measured(metric, predictions, targets, one)[0]

    differences = np.array(
        [value(np.where(swap, a, b)) - value(np.where(swap, b, a)) for swap in product([False, True], repeat=7)]
    )
    exact = np.mean(np.abs(differences) >= abs(value(b) - value(a)) - 1e-12)
    assert compared(metric, first, second, targets, resamples=4000).p == pytest.approx(exact, abs=0.03)


def test_a_correlation_does_not_see_the_scale_of_a_run_and_neither_does_its_p():
    first, second, targets = scores(100)
    for metric, change in ((Pearson(SCORES), lambda x: 40 * x - 7), (Spearman(SCORES), lambda x: np.exp(3 * x))):
        plain = compared(metric, first, second, targets, resamples=300)
        scaled = compared(metric, first, change(second), targets, resamples=300)
        assert scaled.value == pytest.approx(plain.value, abs=1e-9)
        assert scaled.p == pytest.approx(plain.p, abs=0.05)  # other cells, other draws


def test_constant_scores_are_compared_without_a_warning():
    _, second, targets = scores(50)
    found = compared(Pearson(SCORES), np.full((1, 50), 2.5), second, targets, resamples=200)
    assert found.first == 0.0 and found.p < 0.01


def test_where_there_is_no_difference_the_interval_holds_zero_and_p_is_small_as_often_as_they_say():
    chance = np.random.default_rng(0)
    held, small = 0, 0
    for seed in range(300):
        hard = chance.random(200)  # rows are hard or easy for both
        runs = [(chance.random(200) < 0.4 + 0.4 * hard).astype(int)[None] for _ in range(2)]
        found = compared(Accuracy(CLASSES), *runs, ones(runs[0]), resamples=200, seed=seed)
        held += found.low <= 0 <= found.high
        small += found.p <= 0.05
    assert 0.91 <= held / 300 <= 0.99
    assert small / 300 <= 0.08


# Several runs on a side


def test_the_means_over_seeds_are_compared():
    first, second = right("1100", "1110"), right("1111", "1111", "1110")
    found = compared(Accuracy(CLASSES), first, second, ones(first))
    assert found.firsts == (0.5, 0.75) and found.seconds == (1.0, 1.0, 0.75)
    assert found.value == pytest.approx(2.75 / 3 - 0.625)


def test_groups_that_predict_the_same_have_p_1():
    runs = right("1101", "1101")
    found = compared(Accuracy(CLASSES), runs, runs, ones(runs))
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def still(values: list[float], draws: int) -> np.ndarray:
    """Runs whose metric is the same whatever rows are drawn."""
    return np.repeat(np.array(values)[:, None], draws, axis=1)


def test_where_rows_do_not_matter_the_interval_is_that_of_a_t_test():
    """Values 0 2 against 3 5: pooled variance (2 + 2) / 2, standard error sqrt(2 (1/2 + 1/2)); 2 degrees, 97.5 %: 4.303."""
    values = np.array([0.0, 2.0, 3.0, 5.0])
    found = over_seeds(values, still([0, 2, 3, 5], 200_000), 2, np.random.default_rng(0))
    assert np.quantile(found, [0.025, 0.5, 0.975]) == pytest.approx([3 - 6.085, 3, 3 + 6.085], abs=0.15)


def test_one_run_is_taken_to_spread_like_the_runs_of_the_other_side():
    """Values 1 against 2 4: variance 2, standard error sqrt(2 (1 + 1/2)); of Student's t with 1 degree half lies within 1."""
    values = np.array([1.0, 2.0, 4.0])
    found = over_seeds(values, still([1, 2, 4], 100_000), 1, np.random.default_rng(0))
    assert np.median(np.abs(found - 2)) == pytest.approx(np.sqrt(3), abs=0.05)


def test_where_seeds_do_not_matter_the_rows_are_left():
    drawn = np.random.default_rng(0).normal(size=(1, 50)) + np.array([[0.0], [0.0], [1.0], [1.0]])
    drawn[2:] *= 1.5
    found = over_seeds(np.array([0.0, 0.0, 1.0, 1.0]), drawn, 2, np.random.default_rng(1))
    assert found == pytest.approx(drawn[2] - drawn[0])


def test_what_row_and_seed_do_together_is_not_counted_twice():
    """Every run moves on its own when rows are drawn again: that is already in the spread of the values, here 0."""
    drawn = np.random.default_rng(0).normal(size=(4, 100_000))
    found = over_seeds(np.zeros(4), drawn, 2, np.random.default_rng(1))
    assert found.std() < 0.15  # 1 if it were counted


def test_what_row_and_seed_do_together_is_taken_off_the_variance_of_the_rows():
    """Four runs, each with variance .5 around its side's mean, 2 degrees: 4 * .5 / 2 = 1 of the variance of the difference, 4."""
    difference, u, v = np.array([2.0, -2.0] * 4), np.sqrt([0.5] * 8), np.sqrt([0.5] * 8)
    u[[1, 2, 5, 6]] *= -1
    v[4:] *= -1
    found = over_seeds(np.zeros(4), np.stack([-u, u, difference - v, difference + v]), 2, np.random.default_rng(0))
    assert found == pytest.approx(np.sqrt(3 / 4) * difference)


def test_the_share_of_differences_on_the_rarer_side_of_zero_counts_twice():
    # Of 4 one is below 0, and the runs themselves count as one more: 2 * (1 + 1) / (1 + 4).
    assert module._two_sided(np.array([-1.0, 0.5, 0.7, 3.0])) == pytest.approx(0.8)
    assert module._two_sided(np.array([1.0, -0.5, -0.7, -3.0])) == pytest.approx(0.8)
    assert module._two_sided(np.array([0.2, 0.5, 0.7, 3.0])) == pytest.approx(0.4)
    assert module._two_sided(np.array([0.0, 0.0, 1.0, -1.0])) == 1.0


def test_over_three_seeds_the_interval_holds_the_truth_about_as_often_as_it_says():
    chance = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        easy, own = chance.normal(size=200), 0.5 * chance.normal(size=(2, 200))  # of a row for all, for a method
        sides = [
            (easy + own[side] + 0.2 * chance.normal(size=(3, 1)) + 0.7 * chance.normal(size=(3, 200)) > -0.5).astype(
                int
            )
            for side in range(2)
        ]
        found = compared(Accuracy(CLASSES), *sides, ones(sides[0]), resamples=200, seed=seed)
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 300 <= 0.99


# One scale


def test_equal_scores_share_the_mean_of_their_ranks_each_as_often_as_it_occurs():
    assert module._ranks(np.array([10.0, 20.0, 20.0, 5.0]), np.ones(4)).tolist() == [2.0, 3.5, 3.5, 1.0]
    assert module._ranks(np.array([10.0, 20.0, 5.0]), np.array([1, 2, 3])).tolist() == [4.0, 5.5, 2.0]


def scaled(metric, first: list[float], second: list[float], gold: list[float], **more) -> list[list[float]]:
    runs = [Ragged({"value": np.array(run)}, **more) for run in (first, second)]
    found = module._on_one_scale(metric, runs, rows(np.array(gold)), np.ones(len(gold), dtype=np.int64))
    return [run["value"].tolist() for run in found]


def test_a_metric_of_ranks_gets_ranks_one_of_spreads_standard_scores_and_one_of_units_neither():
    first, second, gold = [1.0, 2.0, 4.5], [30.0, 10.0, 20.0], [1.0, 2.0, 3.5]
    assert scaled(Spearman(SCORES), first, second, gold) == [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]
    standard = np.array(scaled(Pearson(SCORES), first, second, gold))
    assert standard == pytest.approx(stats.zscore([first, second], axis=1))
    assert scaled(MeanSquaredError(SCORES), first, second, gold) == [first, second]


def test_classes_and_several_fields_and_several_items_have_no_scale():
    """Also where ranks would not change the metric, such as predictions that are all wrong."""
    counts = np.ones(2, dtype=np.int64)
    wrong = [rows(np.array([0, 0]))] * 2
    assert module._on_one_scale(Accuracy(CLASSES), wrong, rows(np.array([1, 1])), counts) is wrong
    gold, scores = rows(np.array([1.0, 2.0])), np.array([1.0, 3.0])
    for run in (Ragged({"value": scores, "spread": scores}), Ragged({"value": scores}, np.array([0, 1, 2]))):
        runs = [run, run]
        assert module._on_one_scale(Spearman(SCORES), runs, gold, counts) is runs


# The rest


def test_an_interval_at_another_level_leaves_out_the_tails():
    difference = Difference((0.0,), (0.5,), 0.0, 1.0, 0.05, 10, np.arange(101.0))
    assert difference.interval(0.9) == pytest.approx((5.0, 95.0))
    assert difference.interval(0.5) == pytest.approx((25.0, 75.0))


def test_equal_rows_become_one_cell_that_counts_them():
    gold, runs = rows(np.array([0, 1, 0, 0])), [rows(np.array([1, 1, 1, 0])), rows(np.array([0, 0, 0, 0]))]
    cells, of_runs, counts = module.group_equal_rows(gold, runs)
    assert list(zip(cells["index"], *(run["index"] for run in of_runs), counts, strict=True)) == [
        (0, 0, 0, 1), (0, 1, 0, 2), (1, 1, 0, 1),
    ]  # fmt: skip


def test_rows_with_wide_fields_or_several_items_are_left_as_they_are():
    gold = rows(np.array([0, 0]))
    for run in (
        Ragged({"index": np.array([0, 0]), "probabilities": np.full((2, 2), 0.5)}),
        Ragged({"index": np.array([0, 0, 0])}, np.array([0, 2, 3])),
    ):
        cells, of_runs, counts = module.group_equal_rows(gold, [run])
        assert cells is gold
        assert of_runs == [run]
        assert counts.tolist() == [1, 1]


def test_holm_multiplies_the_smallest_by_their_number_the_next_by_one_less():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 * .01, then 2 * .03, and .04 not below it
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_seed_gives_the_same_answer_in_blocks_of_any_size(monkeypatch):
    at_once = compared(Spearman(SCORES), *scores(40), resamples=300)
    monkeypatch.setattr(module, "ENTRIES", 40 * 7)
    in_blocks = compared(Spearman(SCORES), *scores(40), resamples=300)
    assert [in_blocks.low, in_blocks.high, in_blocks.p] == pytest.approx(
        [at_once.low, at_once.high, at_once.p], abs=1e-12
    )


@pytest.mark.parametrize(
    ("first", "second", "targets"),
    [
        (np.zeros((1, 0)), np.zeros((1, 0)), np.zeros(0)),
        (np.zeros((0, 2)), np.zeros((1, 2)), np.zeros(2)),
        (np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(3)),
        (np.array([[0.0, np.nan]]), np.zeros((1, 2)), np.zeros(2)),
    ],
)
def test_what_cannot_be_compared_is_a_mistake_of_the_caller(first, second, targets):
    with pytest.raises(ValueError, match=r"no rows|predictions for|not finite"):
        compared(Pearson(SCORES), first, second, targets)


def test_the_levels_of_holm_by_hand():
    # Three p-values at .05: the smallest has .05 / 3, the next .05 / 2, the largest .05.
    assert holm_levels([0.04, 0.001, 0.02], 0.05) == pytest.approx([0.95, 1 - 0.05 / 3, 0.975])
