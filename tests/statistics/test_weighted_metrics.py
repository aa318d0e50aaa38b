"""Metrics that count each row by its weight, and their intervals and paired tests."""

import numpy as np
import pytest
from sklearn import metrics as reference

from labels import SCORE, rows
from mtlcli import registry
from mtlcli.facts import TaskFacts
from mtlcli.metrics.accuracy import Accuracy
from mtlcli.metrics.class_metrics import MacroF1
from mtlcli.statistics.bootstrap import estimate, exact_interval, value_of
from mtlcli.statistics.groups import RowGroups
from mtlcli.statistics.paired import paired
from mtlcli.tasks.targets import Classes, Ragged

TONE = TaskFacts("tone", 10, 1, Classes.named("no", "yes"))
STARS = TaskFacts("stars", 10, 1, SCORE)
GENERATOR = np.random.default_rng(2)
WEIGHTS = GENERATOR.random(60) * 3
LABELS, SHARES = GENERATOR.integers(2, size=60), GENERATOR.random(60).round(1)
SCORES = GENERATOR.normal(size=60), GENERATOR.normal(size=60)


def weighted_value(name, weights=WEIGHTS):
    plugin = registry.load("metrics", name, "test")
    if "classes" in plugin.measures:
        shares = np.stack([1 - SHARES, SHARES], axis=1)
        predicted = Ragged({"index": (SHARES > 0.5).astype(np.int64), "probabilities": shares})
        return value_of(plugin(TONE), predicted, rows(LABELS), weights)
    return value_of(plugin(STARS), rows(SCORES[0]), rows(SCORES[1]), weights)


GUESS = (SHARES > 0.5).astype(np.int64)
CASES = {
    "accuracy": lambda: reference.accuracy_score(LABELS, GUESS, sample_weight=WEIGHTS),
    "macro-f1": lambda: reference.f1_score(LABELS, GUESS, average="macro", sample_weight=WEIGHTS),
    "weighted-f1": lambda: reference.f1_score(LABELS, GUESS, average="weighted", sample_weight=WEIGHTS),
    "f1": lambda: reference.f1_score(LABELS, GUESS, sample_weight=WEIGHTS),
    "mcc": lambda: reference.matthews_corrcoef(LABELS, GUESS, sample_weight=WEIGHTS),
    "roc-auc": lambda: reference.roc_auc_score(LABELS, SHARES, sample_weight=WEIGHTS),
    "average-precision": lambda: reference.average_precision_score(LABELS, SHARES, sample_weight=WEIGHTS),
    "mean-squared-error": lambda: reference.mean_squared_error(SCORES[1], SCORES[0], sample_weight=WEIGHTS),
    "mae": lambda: reference.mean_absolute_error(SCORES[1], SCORES[0], sample_weight=WEIGHTS),
    "r2": lambda: reference.r2_score(SCORES[1], SCORES[0], sample_weight=WEIGHTS),
    "pearson": lambda: (
        np.cov(*SCORES, aweights=WEIGHTS)[0, 1]
        / np.sqrt(np.cov(SCORES[0], aweights=WEIGHTS) * np.cov(SCORES[1], aweights=WEIGHTS))
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_scikit_learn(name):
    assert weighted_value(name) == pytest.approx(CASES[name](), abs=1e-12)


@pytest.mark.parametrize("name", [*CASES, "spearman", "kendall", "calibration-error", "rmse", "exact-match"])
def test_the_scale_of_the_weights_is_irrelevant(name):
    assert weighted_value(name) == pytest.approx(weighted_value(name, WEIGHTS / 100), abs=1e-12)


@pytest.mark.parametrize("name", [*CASES, "spearman", "kendall", "calibration-error", "rmse", "exact-match"])
def test_a_row_of_weight_two_is_the_row_twice(name):
    plugin = registry.load("metrics", name, "test")
    facts = TONE if "classes" in plugin.measures else STARS
    predicted, gold = (rows(GUESS), rows(LABELS)) if facts is TONE else map(rows, SCORES)
    weights = np.where(np.arange(60) % 3, 1.0, 2.0)
    twice = np.repeat(np.arange(60), weights.astype(int))
    expected = plugin(facts).value(predicted.take(twice), gold.take(twice))
    assert value_of(plugin(facts), predicted, gold, weights) == pytest.approx(expected, abs=1e-12)


def test_equal_weights_leave_the_interval_as_it_is():
    plain = estimate(Accuracy(TONE), rows(GUESS), rows(LABELS))
    weighted = estimate(Accuracy(TONE), rows(GUESS), rows(LABELS), weights=np.full(60, 0.5))
    assert (weighted.value, weighted.low, weighted.high) == pytest.approx((plain.value, plain.low, plain.high))


@pytest.mark.parametrize("metric", [Accuracy, MacroF1])
def test_the_interval_is_wider_where_few_rows_have_most_of_the_weight(metric):
    weights = np.where(np.arange(60) < 6, 20.0, 1.0)
    plain, weighted = (estimate(metric(TONE), rows(GUESS), rows(LABELS), weights=w) for w in (None, weights))
    assert weighted.high - weighted.low > 1.5 * (plain.high - plain.low)


def test_a_perfect_share_has_the_interval_of_as_many_rows_as_the_weights_are_worth():
    weights = np.array([3.0, 1.0] * 8)  # (32)^2 / (8 * 9 + 8) = 12.8
    gold = rows(np.zeros(16, dtype=np.int64))
    perfect = estimate(Accuracy(TONE), gold, gold, weights=weights, resamples=50)
    assert (perfect.value, perfect.interval) == (1, "exact")
    assert perfect.low == pytest.approx(exact_interval(12, 12)[0])


def test_rows_of_weight_zero_are_left_out():
    weights = np.where(np.arange(60) < 40, WEIGHTS + 1, 0.0)
    part = slice(40)
    whole = estimate(MacroF1(TONE), rows(GUESS), rows(LABELS), weights=weights, resamples=100)
    alone = estimate(MacroF1(TONE), rows(GUESS[part]), rows(LABELS[part]), weights=weights[part], resamples=100)
    assert whole == alone
    assert whole.n == 40


@pytest.mark.parametrize("metric", [Accuracy, MacroF1])
def test_groups_are_drawn_whole_with_the_weights_of_their_rows(metric):
    groups = RowGroups.of([f"{row // 6}" for row in range(60)])
    grouped = estimate(metric(TONE), rows(GUESS), rows(LABELS), groups=groups, weights=WEIGHTS, resamples=300)
    assert grouped.value == pytest.approx(value_of(metric(TONE), rows(GUESS), rows(LABELS), WEIGHTS))
    assert grouped.groups == 10 and grouped.low < grouped.value < grouped.high


@pytest.mark.parametrize("metric", [Accuracy, MacroF1])
def test_a_comparison_counts_rows_by_their_weights(metric):
    gold, other = np.zeros(60, dtype=np.int64), np.arange(60) % 2
    # The first run is wrong in every second row. Without the weights of those rows there is no difference.
    heavy, light = (np.where(other == 1, weight, 1.0) for weight in (5.0, 1e-9))
    results = [
        paired(metric(TONE), [rows(other)], [rows(gold)], rows(gold), weights=w, resamples=300) for w in (heavy, light)
    ]
    assert results[0].first == pytest.approx(value_of(metric(TONE), rows(other), rows(gold), heavy))
    assert results[0].p < 0.01 and results[0].low > 0
    assert results[1].value < 1e-6 or metric is MacroF1


def test_a_comparison_leaves_out_rows_of_weight_zero():
    weights = np.where(np.arange(60) < 30, 1.0, 0.0)
    result = paired(Accuracy(TONE), [rows(GUESS)], [rows(LABELS)], rows(LABELS), weights=weights, resamples=50)
    assert (result.n, result.second) == (30, 1)
