import tracemalloc

import numpy as np
import pytest
from scipy import stats

from labels import estimated
from mtlcli.facts import TaskFacts
from mtlcli.metrics.accuracy import Accuracy
from mtlcli.metrics.class_metrics import MacroF1
from mtlcli.metrics.errors import MeanSquaredError
from mtlcli.metrics.pearson import Pearson
from mtlcli.metrics.spearman import Spearman
from mtlcli.statistics import bootstrap
from mtlcli.statistics.bootstrap import Estimate, exact_interval
from mtlcli.tasks.targets import Classes, Score

CLASSES = TaskFacts("sst", rows=100, batches=10, target=Classes.named("bad", "good"))
SCORES = TaskFacts("sts", rows=100, batches=10, target=Score(0.0, 5.0, 2.5, 1.0))


def correlated(n):
    generator = np.random.default_rng(3)
    targets = generator.normal(size=n)
    return targets + generator.normal(size=n), targets


def test_the_value_is_the_metric_of_the_rows_as_they_are():
    result = estimated(Accuracy(CLASSES), np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1]))
    assert (result.value, result.n) == (0.75, 4)


def test_the_interval_of_few_wrong_rows_is_exact():
    targets = np.repeat([0, 1], 25)
    for wrong in (0, 1, 4, 46, 50):
        predictions = np.where(np.arange(50) < wrong, 1 - targets, targets)
        result = estimated(Accuracy(CLASSES), predictions, targets)
        expected = stats.binomtest(50 - wrong, 50).proportion_ci(method="exact")
        assert (result.value, result.interval) == (pytest.approx(1 - wrong / 50), "exact")
        assert [result.low, result.high] == pytest.approx([expected.low, expected.high], abs=1e-9)
    assert (
        estimated(Accuracy(CLASSES), np.where(np.arange(50) < 5, 1 - targets, targets), targets).interval == "bootstrap"
    )


def test_the_exact_interval_of_many_rows_and_other_levels_is_that_of_scipy():
    for count, n, level in ((3, 400_000, 0.95), (399_998, 400_000, 0.9), (1, 1, 0.95), (2, 4, 0.5)):
        expected = stats.binomtest(count, n).proportion_ci(level, method="exact")
        assert exact_interval(count, n, level) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_perfect_predictions_of_other_metrics_follow_the_rule_of_three():
    targets = np.repeat([0, 1], 50)
    unlike = 1 - 0.025**0.01
    result = estimated(MacroF1(CLASSES), targets, targets)
    assert result == Estimate(1.0, pytest.approx(1 - unlike), 1.0, 100, interval="rule-of-three")
    scores = np.linspace(0, 5, 100)
    assert estimated(Pearson(SCORES), scores, scores).low == pytest.approx(1 - 2 * unlike)
    assert estimated(MeanSquaredError(SCORES), scores, scores) == Estimate(0.0, 0.0, 0.0, 100, interval="none")


def test_predictions_that_are_all_wrong_can_only_be_better_elsewhere():
    targets = np.repeat([0, 1], 50)
    unlike = 1 - 0.025**0.01
    result = estimated(MacroF1(CLASSES), 1 - targets, targets)
    assert result == Estimate(0.0, 0.0, pytest.approx(unlike), 100, interval="rule-of-three")


@pytest.mark.parametrize(("count", "n"), [(7, 100), (29, 100), (81, 141), (114, 141)])  # 7 / 100 * 100 > 7 in floats
def test_the_interval_of_a_share_is_that_of_its_count_though_shares_are_rounded(count, n):
    assert bootstrap.interval_of_share(count / n, n) == exact_interval(count, n)


@pytest.mark.parametrize("metric", [Accuracy(CLASSES), MacroF1(CLASSES)], ids=["accuracy", "macro_f1"])
@pytest.mark.parametrize(("accuracy", "n"), [(0.98, 50), (0.99, 200), (0.95, 100), (0.9, 50)])
def test_the_interval_near_the_ceiling_holds_the_true_value(metric, accuracy, n):
    # The classes are equally frequent and equally hard, so the true macro F1 is the accuracy. 300 draws: standard error 0.0126.
    generator = np.random.default_rng(1)
    hits = 0
    for seed in range(300):
        targets = np.arange(n) % 2
        predictions = np.where(generator.random(n) < accuracy, targets, 1 - targets)
        result = estimated(metric, predictions, targets, resamples=300, seed=seed)
        hits += result.low <= accuracy <= result.high
    assert hits / 300 >= 0.91


def test_one_row_is_its_own_interval():
    result = estimated(MeanSquaredError(SCORES), np.array([3.0]), np.array([1.0]))
    assert (result.value, result.low, result.high) == (4.0, 4.0, 4.0)


def test_the_interval_of_an_accuracy_is_about_two_standard_errors_wide():
    # 70 of 100 right: standard error sqrt(0.7 * 0.3 / 100) = 0.0458, interval 0.7 -+ 1.96 * 0.0458
    result = estimated(Accuracy(CLASSES), np.zeros(100, dtype=int), np.repeat([0, 1], [70, 30]), resamples=4000)
    assert [result.low, result.high] == pytest.approx([0.61, 0.79], abs=0.015)


def test_a_lower_level_gives_a_narrower_interval():
    wide = estimated(Pearson(SCORES), *correlated(50))
    narrow = estimated(Pearson(SCORES), *correlated(50), level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_interval_holds_the_true_accuracy_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    targets = np.zeros(100, dtype=int)
    results = [
        estimated(Accuracy(CLASSES), (generator.random(100) > 0.7).astype(int), targets, resamples=300, seed=seed)
        for seed in range(300)
    ]
    assert 0.90 <= np.mean([result.low <= 0.7 <= result.high for result in results]) <= 0.98


@pytest.mark.parametrize(
    ("metric", "statistic"),
    [
        (Pearson(SCORES), lambda predictions, targets: stats.pearsonr(predictions, targets)[0]),
        (Spearman(SCORES), lambda predictions, targets: stats.spearmanr(predictions, targets)[0]),
        (MeanSquaredError(SCORES), lambda predictions, targets: ((predictions - targets) ** 2).mean()),
    ],
    ids=["pearson", "spearman", "mean_squared_error"],
)
def test_the_interval_is_about_that_of_scipys_bootstrap(metric, statistic):
    rows = correlated(200)
    expected = stats.bootstrap(
        rows, statistic, paired=True, vectorized=False, method="percentile", n_resamples=1000, random_state=5
    ).confidence_interval
    result = estimated(metric, *rows)
    tolerance = 0.1 * (expected.high - expected.low)
    assert [result.low, result.high] == pytest.approx([expected.low, expected.high], abs=tolerance)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    metric, rows = Pearson(SCORES), correlated(50)
    assert estimated(metric, *rows, seed=1) == estimated(metric, *rows, seed=1)
    assert estimated(metric, *rows, seed=1).low != estimated(metric, *rows, seed=2).low


@pytest.mark.parametrize("metric", [Pearson(SCORES), Spearman(SCORES)], ids=["pearson", "spearman"])
def test_the_interval_does_not_depend_on_the_size_of_the_blocks(metric, monkeypatch):
    rows = correlated(51)
    at_once = estimated(metric, *rows)
    for entries in (1, 51 * 7, 51 * 300):
        monkeypatch.setattr(bootstrap, "ENTRIES", entries)
        in_blocks = estimated(metric, *rows)
        assert [in_blocks.low, in_blocks.high] == pytest.approx([at_once.low, at_once.high], abs=1e-13)


def test_every_resample_draws_as_many_rows_as_there_are():
    assert bootstrap._counts(np.array([[0, 0, 2], [1, 1, 1]])).tolist() == [[2, 0, 1], [0, 3, 0]]


@pytest.mark.parametrize(
    ("predictions", "targets", "degenerate"),
    [
        ([1.0, 2.0], [1.0, 2.0], None),
        ([2.5, 2.5], [1.0, 2.0], "predictions are constant"),
        ([1.0, 2.0], [2.5, 2.5], "labels are constant"),
        ([0.0, 0.0], [2.5, 2.5], "predictions and labels are constant"),
        ([1.0], [2.0], "there is only one row"),
    ],
)
def test_an_estimate_says_why_it_means_little(predictions, targets, degenerate):
    result = estimated(Pearson(SCORES), np.array(predictions), np.array(targets))
    assert result.degenerate == degenerate
    if degenerate:
        assert (result.value, result.low, result.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        ([], [], "no rows to evaluate"),
        ([1.0, 2.0], [1.0], "2 predictions for 1 labels"),
        ([1.0, np.nan, np.inf], [1.0, 2.0, 3.0], "2 of 3 predictions are not finite"),
        ([1.0, 2.0], [1.0, -np.inf], "1 of 2 labels are not finite"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(predictions, targets, message):
    with pytest.raises(ValueError, match=message):
        estimated(Pearson(SCORES), np.array(predictions), np.array(targets))


@pytest.mark.parametrize("metric", [MacroF1(CLASSES), Spearman(SCORES)], ids=["macro_f1", "spearman"])
def test_four_hundred_thousand_rows_need_no_giant_matrix(metric):
    generator = np.random.default_rng(0)
    predictions, targets = generator.integers(2, size=(2, 400_000))
    if metric.task.target.kind == "score":
        predictions, targets = generator.normal(size=400_000), targets.astype(float)
    tracemalloc.start()
    result = estimated(metric, predictions, targets, resamples=11)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 2**20  # bytes; the counts of 11 resamples alone are 34 MiB, of 1000 resamples 3 GiB
    assert result.low <= result.high
