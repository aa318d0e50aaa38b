"""Groups of rows: what is resampled and swapped as a whole, and means over several sets of rows."""

from itertools import product

import numpy as np
import pytest

from labels import SCORE, estimated, rows
from mtlcli.facts import TaskFacts
from mtlcli.metrics.accuracy import Accuracy
from mtlcli.metrics.base import Statistics
from mtlcli.metrics.class_metrics import MacroF1
from mtlcli.metrics.errors import MeanSquaredError
from mtlcli.metrics.spearman import Spearman
from mtlcli.statistics.bootstrap import Estimate, estimate, exact_interval, mean_estimate
from mtlcli.statistics.groups import RowGroups, bind_groups
from mtlcli.statistics.paired import paired
from mtlcli.tasks.targets import Classes

ACCURACY, MACRO_F1 = (metric(TaskFacts("t", 1, 1, Classes.named("a", "b"))) for metric in (Accuracy, MacroF1))
MSE, SPEARMAN = (metric(TaskFacts("t", 1, 1, SCORE)) for metric in (MeanSquaredError, Spearman))


def blocks(count: int, size: int) -> RowGroups:
    """Groups of consecutive rows."""
    return RowGroups.of([f"{group:03}" for group in range(count) for _ in range(size)])


def test_groups_are_numbered_by_name_and_a_row_without_one_is_a_group_of_its_own():
    groups = RowGroups.of(["b", "a", "", "b", ""])
    assert (groups.names, groups.codes.tolist(), len(groups)) == (("a", "b", "", ""), [1, 0, 2, 1, 3], 4)
    assert [groups.name(row) for row in range(5)] == ["b", "a", "", "b", ""]


def test_groups_are_the_same_whatever_they_are_called():
    groups = RowGroups.of(["b", "a", "b", ""])
    assert groups.same_as(RowGroups.of(["x", "y", "x", "z"]))
    assert not groups.same_as(RowGroups.of(["x", "y", "y", "z"]))
    assert not groups.same_as(RowGroups.of(["x", "y", "x"]))


@pytest.mark.parametrize("metric", [ACCURACY, MACRO_F1])
def test_a_resample_of_groups_holds_all_rows_of_each(metric):
    predicted, gold = rows(np.array([0, 1, 1, 0, 1])), rows(np.array([0, 1, 0, 1, 1]))
    bound = bind_groups(metric, predicted, gold, RowGroups.of(["a", "b", "a", "c", "b"]))
    assert isinstance(bound, Statistics) == (metric is ACCURACY)
    counts = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])
    by_rows = np.array([[1, 1, 1, 1, 1], [2, 0, 2, 1, 0], [0, 3, 0, 0, 3]])
    assert bound.values(counts) == pytest.approx(metric.bind(predicted, gold).values(by_rows))
    if metric is ACCURACY:  # rows 0 and 2 are group a with one right row, row 3 is group c and wrong
        assert bound.values(counts) == pytest.approx([3 / 5, 2 / 5, 1.0])


# Intervals


def test_groups_of_equal_rows_vary_like_single_rows():
    scores, labels = np.zeros(4), np.array([0.0, 1.0, 2.0, 4.0])
    single = estimated(MSE, scores, labels, resamples=200)
    repeated = estimated(MSE, scores.repeat(25), labels.repeat(25), groups=blocks(4, 25), resamples=200)
    assert repeated.drawn == pytest.approx(single.drawn)
    assert (repeated.value, repeated.low, repeated.high) == pytest.approx((single.value, single.low, single.high))
    assert (repeated.n, repeated.groups, single.groups) == (100, 4, None)


def test_groups_of_one_row_are_rows():
    labels = np.random.default_rng(1).integers(2, size=60)
    predicted = np.where(np.arange(60) % 4 == 0, 1 - labels, labels)
    alone, grouped = (estimated(ACCURACY, predicted, labels, groups=groups) for groups in (None, blocks(60, 1)))
    assert grouped.drawn == alone.drawn
    assert (grouped.low, grouped.high, grouped.interval) == (alone.low, alone.high, "bootstrap")


def test_the_spread_is_that_of_the_means_of_groups():
    """20 groups of 50 rows, half of them right: the standard error is 0.5 / sqrt(20) = 0.112, not 0.5 / sqrt(1000) = 0.016."""
    labels, predicted = np.zeros(1000, dtype=np.int64), (np.arange(1000) // 50) % 2
    by_group = estimated(ACCURACY, predicted, labels, groups=blocks(20, 50), resamples=2000)
    by_row = estimated(ACCURACY, predicted, labels, resamples=2000)
    assert np.std(by_group.drawn) == pytest.approx(0.112, rel=0.1)
    assert np.std(by_row.drawn) == pytest.approx(0.0158, rel=0.1)


def test_all_rows_right_say_as_much_as_their_groups():
    labels = np.zeros(40, dtype=np.int64)
    found = estimated(ACCURACY, labels, labels, groups=blocks(8, 5))
    assert (found.interval, found.high) == ("exact", 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 8), abs=1e-9)  # 0.63, where 40 rows would give 0.91
    assert estimated(ACCURACY, labels, labels).low == pytest.approx(0.025 ** (1 / 40), abs=1e-9)


def test_few_wrong_rows_count_by_the_spread_between_groups():
    """Four wrong rows of 100 in 20 groups: all in one group they say as little as 1 of 20, spread out nearly as much as 4 of 100."""
    labels = np.zeros(100, dtype=np.int64)
    together, apart = labels.copy(), labels.copy()
    together[:4] = 1
    apart[[0, 25, 50, 75]] = 1
    clustered = estimated(ACCURACY, together, labels, groups=blocks(20, 5))
    spread = estimated(ACCURACY, apart, labels, groups=blocks(20, 5))
    single = estimated(ACCURACY, apart, labels)
    assert {found.interval for found in (clustered, spread, single)} == {"exact"}
    assert (single.low, single.high) == pytest.approx(exact_interval(96, 100))
    assert clustered.low < spread.low <= single.low and clustered.high >= spread.high
    assert exact_interval(19, 20)[0] - 0.06 < clustered.low < exact_interval(29, 30)[0]
    assert spread.low > exact_interval(76, 80)[0]


@pytest.mark.parametrize(("wrong", "interval"), [(4, "exact"), (5, "bootstrap"), (15, "bootstrap"), (16, "exact")])
def test_the_bootstrap_needs_five_groups_with_right_and_five_with_wrong_rows(wrong, interval):
    labels = np.zeros(100, dtype=np.int64)
    predicted = (np.arange(100) // 5 < wrong).astype(np.int64)  # whole groups of 5 rows, of 20
    assert estimated(ACCURACY, predicted, labels, groups=blocks(20, 5)).interval == interval


def test_a_single_group_has_no_interval():
    labels = np.array([0.0, 1.0, 3.0])
    found = estimated(MSE, np.zeros(3), labels, groups=RowGroups.of(["a", "a", "a"]))
    assert (found.low, found.high, found.interval) == (found.value, found.value, "none")
    assert found.degenerate == "all rows are of one group"


# Means over sets


def half_right(count: int, groups: RowGroups | None = None) -> Estimate:
    labels = np.zeros(count, dtype=np.int64)
    return estimate(ACCURACY, rows(np.arange(count) % 2), rows(labels), groups=groups, resamples=4000)


def test_the_mean_of_two_sets_varies_less_than_each():
    """Standard errors 0.05 and 0.1: the mean of independent sets has sqrt(0.05**2 + 0.1**2) / 2 = 0.0559."""
    large, small = half_right(100), half_right(25)
    mean = mean_estimate({"matched": large, "mismatched": small})
    assert mean.value == pytest.approx((0.5 + 13 / 25) / 2)
    assert (mean.n, mean.sets, mean.interval) == (125, ("matched", "mismatched"), "bootstrap")
    assert np.std(mean.drawn) == pytest.approx(0.0559, rel=0.05)
    assert (mean.low, mean.high) == pytest.approx(np.quantile(mean.drawn, [0.025, 0.975]))


def test_sets_with_the_same_groups_are_drawn_together():
    """The same rows twice: their mean varies as much as each, and not as much as the mean of independent sets."""
    once, again = (half_right(100, blocks(100, 1)) for _ in range(2))
    together = mean_estimate({"de": once, "fr": again}, same_groups=True)
    independent = mean_estimate({"de": once, "fr": again})
    assert np.std(together.drawn) == pytest.approx(0.05, rel=0.05)
    assert np.std(independent.drawn) == pytest.approx(0.05 / np.sqrt(2), rel=0.05)
    assert (together.groups, independent.groups) == (100, 200)


def test_the_mean_of_one_set_is_that_set():
    only = half_right(30)
    mean = mean_estimate({"de": only})
    assert (mean.value, mean.low, mean.high, mean.sets) == (only.value, only.low, only.high, ("de",))


def test_a_set_without_a_bootstrap_interval_lends_its_ends_to_the_mean():
    labels = np.zeros(20, dtype=np.int64)
    perfect = estimate(ACCURACY, rows(labels), rows(labels), resamples=4000)
    other = half_right(100)
    mean = mean_estimate({"a": perfect, "b": other})
    assert mean.interval == "exact"
    assert (mean.low, mean.high) == pytest.approx(((perfect.low + other.low) / 2, (1 + other.high) / 2))


def test_no_sets_have_no_mean():
    with pytest.raises(ValueError, match="no sets"):
        mean_estimate({})


# Paired tests


def test_swapping_groups_has_as_many_outcomes_as_there_are_groups():
    """Four groups of 25 rows, all won: both signs of all 16 swaps are as extreme, p = 2 / 16; 100 rows would give p below 0.001."""
    labels = np.zeros(100, dtype=np.int64)
    worse, better = [rows(labels + 1)], [rows(labels)]
    grouped = paired(ACCURACY, worse, better, rows(labels), groups=blocks(4, 25), resamples=4000)
    assert (grouped.value, grouped.n, grouped.groups) == (1.0, 100, 4)
    assert grouped.p == pytest.approx(0.125, abs=0.02)
    alone = paired(ACCURACY, worse, better, rows(labels), resamples=4000)
    assert alone.p < 0.001 and alone.groups is None


def test_p_of_a_metric_without_statistics_is_the_share_of_all_swaps_of_groups():
    generator = np.random.default_rng(4)
    labels = generator.normal(size=12)
    first, second = labels + generator.normal(size=12) * 2, labels + generator.normal(size=12) / 2
    groups = blocks(4, 3)
    found = paired(SPEARMAN, [rows(first)], [rows(second)], rows(labels), groups=groups, resamples=4000)
    # On one scale, as `randomization` puts them: ranks.
    ranks = [np.argsort(np.argsort(scores)).astype(float) for scores in (first, second)]
    differences = []
    for swaps in product([False, True], repeat=4):
        swapped = np.array(swaps)[groups.codes]
        sides = [np.where(swapped, ranks[1], ranks[0]), np.where(swapped, ranks[0], ranks[1])]
        values = [SPEARMAN.value(rows(side), rows(labels)) for side in sides]
        differences.append(abs(values[1] - values[0]))
    share = np.mean(np.array(differences) >= abs(found.value) - 1e-9)
    assert 0 < share < 1
    assert found.p == pytest.approx(share, abs=0.03)


def test_the_paired_interval_is_that_of_the_groups():
    labels = np.zeros(1000, dtype=np.int64)
    won = (np.arange(1000) // 50) % 4 == 0  # 5 of 20 groups
    first, second = [rows(np.where(won, 1, 0))], [rows(labels)]
    found = paired(ACCURACY, first, second, rows(labels), groups=blocks(20, 50), resamples=4000)
    assert np.std(found.drawn) == pytest.approx(np.sqrt(0.25 * 0.75 / 20), rel=0.1)
    several = paired(ACCURACY, [*first, *first], second, rows(labels), groups=blocks(20, 50), resamples=1000)
    assert several.value == pytest.approx(0.25) and several.groups == 20
