"""Metrics of one class, of all classes and of scores: by hand, and against scikit-learn and SciPy on resamples."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.metrics.binary import F1, AveragePrecision, Precision, Recall, RocAuc
from mtlcli.metrics.calibration_error import CalibrationError
from mtlcli.metrics.class_metrics import Matthews, WeightedF1
from mtlcli.metrics.errors import R2, MeanAbsoluteError, RootMeanSquaredError
from mtlcli.metrics.kendall import Kendall
from mtlcli.metrics.relation_f1 import RelationF1
from mtlcli.tasks.targets import Classes, Ragged, Score, target_of

TWO = TaskFacts("t", 4, 1, Classes.named("0", "1"))
THREE = TaskFacts("t", 4, 1, Classes.named("a", "b", "c"))
SCORES = TaskFacts("t", 4, 1, Score(0.0, 5.0, 2.5, 1.5))
GOLD, PREDICTED = [1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 1]


def classes(indices, probabilities=None) -> Ragged:
    fields = {"index": np.array(indices)}
    return Ragged(fields if probabilities is None else fields | {"probabilities": np.array(probabilities)})


def scores(values) -> Ragged:
    return Ragged({"value": np.array(values, dtype=float)})


def test_one_class_by_hand():
    # TP 3, FP 1, FN 1
    for metric in (F1, Precision, Recall):
        assert metric(TWO).value(classes(PREDICTED), classes(GOLD)) == 0.75
    assert Matthews(TWO).value(classes(PREDICTED), classes(GOLD)) == pytest.approx(0.25)
    assert F1(TWO).value(classes([0, 0]), classes([0, 0])) == 0


def test_one_row_of_the_class_is_enough():
    # TP 1 and nothing else, so that every denominator but that of F1 is 1.
    for metric in (F1, Precision, Recall):
        assert metric(TWO).value(classes([1, 0]), classes([1, 0])) == 1
    assert AveragePrecision(TWO).value(classes([1, 0]), classes([1, 0])) == 1


def test_constant_predictions_or_labels_have_no_correlation_with_anything():
    assert Matthews(TWO).value(classes([1, 1, 1]), classes([0, 1, 1])) == 0
    assert Matthews(TWO).value(classes([0, 1, 1]), classes([1, 1, 1])) == 0


def test_ranking_by_hand():
    # Scores .9 (positive), .5 (positive), .5, .1: of four pairs three are ordered and one is a tie.
    predicted = classes([1, 1, 1, 0], [[0.1, 0.9], [0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])
    gold = classes([1, 1, 0, 0])
    assert RocAuc(TWO).value(predicted, gold) == pytest.approx(3.5 / 4)
    # Down to .9: precision 1, recall 1/2; down to .5: precision 2/3, recall 1.
    assert AveragePrecision(TWO).value(predicted, gold) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert RocAuc(TWO).value(predicted, classes([1, 1, 1, 1])) == 0.5
    assert AveragePrecision(TWO).value(predicted, classes([0, 0, 0, 0])) == 0


def test_calibration_by_hand():
    # Confidence .7 and .7 in one bin, one of them right: |1 - 1.4| = .4; confidence .95 and right: .05.
    predicted = classes([1, 1, 0], [[0.3, 0.7], [0.3, 0.7], [0.95, 0.05]])
    assert CalibrationError(TWO).value(predicted, classes([1, 0, 0])) == pytest.approx(0.45 / 3)
    assert CalibrationError(TWO).value(classes([1, 0]), classes([1, 1])) == 0.5


def test_errors_by_hand():
    predicted, gold = scores([1, 2, 4]), scores([1, 4, 3])
    assert MeanAbsoluteError(SCORES).value(predicted, gold) == 1
    assert RootMeanSquaredError(SCORES).value(predicted, gold) == pytest.approx((5 / 3) ** 0.5)
    assert R2(SCORES).value(predicted, gold) == pytest.approx(1 - 5 / (14 / 3))
    assert R2(SCORES).value(predicted, scores([2, 2, 2])) == 0
    # Of three pairs two are ordered alike and one oppositely.
    assert Kendall(SCORES).value(predicted, gold) == pytest.approx(1 / 3)
    assert Kendall(SCORES).value(scores([2, 2, 2]), gold) == 0


def test_an_offset_that_all_labels_share_costs_the_explained_variance_no_digits():
    # Sums of squares 5 and 14 / 3, as without the offset; its square, 1e16, has no digits behind the point.
    predicted, gold = np.array([1.0, 2.0, 4.0]) + 1e8, np.array([1.0, 4.0, 3.0]) + 1e8
    value = R2(SCORES).value(scores(predicted), scores(gold))
    assert value == pytest.approx(1 - 5 / (14 / 3), abs=1e-7)
    assert value == pytest.approx(sklearn.metrics.r2_score(gold, predicted), abs=1e-7)


def resamples(n: int) -> np.ndarray:
    random = np.random.default_rng(4)
    return np.concatenate([np.ones((1, n), dtype=np.int64), random.multinomial(n, np.full(n, 1 / n), size=8)])


def test_all_classes_as_in_scikit_learn():
    random, n = np.random.default_rng(0), 40
    gold, predicted = random.integers(3, size=n), random.integers(3, size=n)
    for metric, reference in (
        (WeightedF1, lambda a, b: sklearn.metrics.f1_score(a, b, average="weighted", zero_division=0)),
        (Matthews, sklearn.metrics.matthews_corrcoef),
    ):
        counts = resamples(n)
        values = metric(THREE).bind(classes(predicted), classes(gold)).values(counts)
        expected = [reference(np.repeat(gold, count), np.repeat(predicted, count)) for count in counts]
        assert values == pytest.approx(expected, abs=1e-12)


def test_rankings_as_in_scikit_learn():
    random, n = np.random.default_rng(1), 60
    gold = random.integers(2, size=n)
    chance = random.integers(8, size=n) / 8  # with ties
    predicted = classes((chance > 0.5).astype(int), np.stack([1 - chance, chance], axis=1))
    for metric, reference in (
        (RocAuc, sklearn.metrics.roc_auc_score),
        (AveragePrecision, sklearn.metrics.average_precision_score),
    ):
        counts = resamples(n)
        values = metric(TWO).bind(predicted, classes(gold)).values(counts)
        expected = [reference(np.repeat(gold, count), np.repeat(chance, count)) for count in counts]
        assert values == pytest.approx(expected, abs=1e-12)


def test_scores_as_in_scikit_learn_and_scipy():
    random, n = np.random.default_rng(2), 50
    gold = random.integers(6, size=n).astype(float)
    predicted = (gold + random.normal(size=n)).round(1)
    for metric, reference in (
        (R2, sklearn.metrics.r2_score),
        (Kendall, lambda a, b: scipy.stats.kendalltau(a, b).statistic),
    ):
        counts = resamples(n)
        values = metric(SCORES).bind(scores(predicted), scores(gold)).values(counts)
        expected = [reference(np.repeat(gold, count), np.repeat(predicted, count)) for count in counts]
        assert values == pytest.approx(expected, abs=1e-12)


def test_kendall_of_more_rows_than_a_block():
    random = np.random.default_rng(3)
    gold = random.integers(50, size=1500).astype(float)
    predicted = gold + random.integers(-20, 20, size=1500)
    value = Kendall(SCORES).value(scores(predicted), scores(gold))
    assert value == pytest.approx(scipy.stats.kendalltau(predicted, gold).statistic, abs=1e-12)


def test_the_positive_class_is_stated_or_has_a_usual_name():
    assert Classes.named("no", "yes").positive_index("tasks.t") == 1
    assert Classes.named("1", "0").positive_index("tasks.t") == 0
    stated = Classes.named("different", "same").with_positive("same", "tasks.t")
    assert stated.positive_index("tasks.t") == 1
    assert target_of(stated.record()) == stated
    with pytest.raises(MtlError, match=r"^tasks\.t\.positive: say which class is the positive one: one of a, b, c$"):
        F1(THREE)
    with pytest.raises(MtlError, match=r'^tasks\.t\.positive: found "d", expected one of a, b$'):
        Classes.named("a", "b").with_positive("d", "tasks.t").positive_index("tasks.t")
    with pytest.raises(MtlError, match=r"^tasks\.t\.positive: this task predicts a score"):
        Score().with_positive("a", "tasks.t")


def test_a_negative_class_that_no_label_has_is_refused():
    target = replace(Classes.named("no relation", "founder"), negative="no_relation")
    with pytest.raises(MtlError, match=r'^tasks\.t\.negative: found "no_relation"; did you mean "no relation"'):
        RelationF1(TaskFacts("t", 4, 1, target))
