"""Metrics of sets of labels: an example by hand, scikit-learn, resamples as repeated rows, unknown labels, and tests of runs."""

import numpy as np
import pytest

from mtlcli.facts import TaskFacts
from mtlcli.metrics.class_metrics import MacroF1
from mtlcli.metrics.label_sets import MicroF1, MicroF1AtHalf, SubsetAccuracy
from mtlcli.metrics.mean_average_precision import MeanAveragePrecision
from mtlcli.statistics.bootstrap import estimate
from mtlcli.statistics.paired import paired
from mtlcli.tasks.label_sets import UNKNOWN, LabelSets
from mtlcli.tasks.targets import Ragged, concat

TARGET = LabelSets(("a", "b", "c"))
FACTS = TaskFacts("t", 4, 1, TARGET)
GOLD = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
SCORES = np.array([[0.9, 0.2, 0.4], [0.3, 0.8, 0.1], [0.6, 0.4, 0.5], [0.2, 0.1, 0.3]])
METRICS = (MicroF1, MicroF1AtHalf, MacroF1, SubsetAccuracy, MeanAveragePrecision)
every_metric = pytest.mark.parametrize("metric", METRICS)


def gold(entries, unseen=None) -> Ragged:
    entries = np.asarray(entries, dtype=np.uint8)
    return Ragged(
        {"set": entries, "unseen": np.zeros(len(entries), dtype=np.int64) if unseen is None else np.array(unseen)}
    )


def predicted(scores, target: LabelSets = TARGET) -> Ragged:
    return target.decide(Ragged({"probabilities": np.asarray(scores)}))


def value(metric, scores, entries, **more) -> float:
    return metric(FACTS).value(predicted(scores), gold(entries, **more))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (MicroF1, 2 / 3),
        (MacroF1, (1 + 2 / 3 + 0) / 3),
        (SubsetAccuracy, 0.5),
        (MeanAveragePrecision, (1 + 1 + 0.5) / 3),
    ],
)
def test_an_example_by_hand(metric, expected):
    assert value(metric, SCORES, GOLD) == pytest.approx(expected)


def random_rows(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and labels that depend on them."""
    random = np.random.default_rng(seed)
    scores = random.integers(0, 8, (n, 3)) / 7
    return scores, (random.random((n, 3)) < scores * [0.9, 0.5, 0.1]).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_all_are_those_of_scikit_learn(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, entries = random_rows(seed)
    chosen = scores >= 0.5
    assert value(MicroF1, scores, entries) == pytest.approx(sklearn.f1_score(entries, chosen, average="micro"))
    assert value(MacroF1, scores, entries) == pytest.approx(sklearn.f1_score(entries, chosen, average="macro"))
    assert value(SubsetAccuracy, scores, entries) == pytest.approx(sklearn.accuracy_score(entries, chosen))
    assert value(MeanAveragePrecision, scores, entries) == pytest.approx(
        sklearn.average_precision_score(entries, scores, average="macro"), abs=1e-12
    )


@every_metric
def test_a_resample_is_its_rows_repeated_with_ties_and_unknown_labels(metric):
    random = np.random.default_rng(3)
    scores, entries = random_rows(1, 30)
    entries[random.random(entries.shape) < 0.2] = UNKNOWN
    rows, labels = predicted(scores), gold(entries, random.integers(0, 2, 30))
    counts = random.integers(0, 4, (200, 30))
    values = metric(FACTS).bind(rows, labels).values(counts)
    drawn = [np.repeat(np.arange(30), count) for count in counts]
    repeated = [metric(FACTS).value(rows.take(at), labels.take(at)) for at in drawn]
    assert values == pytest.approx(repeated, abs=1e-12)
    assert metric(FACTS).bind(rows, labels).values(2 * counts) == pytest.approx(values, abs=1e-12)


@every_metric
def test_unknown_labels_and_rows_do_not_count(metric):
    scores, entries = random_rows(2, 30)
    entries = entries.copy()
    entries[:5, 1] = UNKNOWN
    changed = scores.copy()
    changed[:5, 1] = 1 - changed[:5, 1]
    more = np.concatenate([entries, np.full((4, 3), UNKNOWN)])
    expected = value(metric, scores, entries)
    assert value(metric, changed, entries) == pytest.approx(expected)
    assert value(metric, np.concatenate([scores, np.ones((4, 3))]), more) == pytest.approx(expected)


def test_labels_that_training_never_saw_are_missed():
    scores, entries = [[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]], [[1, 0, 0], [0, 1, 0]]
    unseen = [0, 2]
    assert value(MicroF1, scores, entries, unseen=unseen) == pytest.approx(2 * 2 / (4 + 2))
    assert value(SubsetAccuracy, scores, entries, unseen=unseen) == 0.5
    assert value(MacroF1, scores, entries, unseen=unseen) == pytest.approx(2 / 3)  # a, b, and one that nobody finds
    assert value(MeanAveragePrecision, scores, entries, unseen=unseen) == 1


@every_metric
def test_without_any_label_every_metric_is_defined(metric):
    expected = 1.0 if metric is SubsetAccuracy else 0.0
    assert value(metric, np.zeros((3, 3)), np.zeros((3, 3))) == expected
    assert value(metric, np.ones((3, 3)), np.zeros((3, 3))) == 0


def test_a_label_that_neither_holds_nor_is_predicted_is_left_out_of_the_means():
    scores, entries = SCORES.copy(), GOLD.copy()
    scores[:, 2], entries[:, 2] = 0.1, 0
    assert value(MacroF1, scores, entries) == pytest.approx((1 + 2 / 3) / 2)
    assert value(MeanAveragePrecision, scores, entries) == 1


def test_thresholds_decide_all_but_the_ranking_and_the_half():
    tuned = LabelSets(TARGET.labels, thresholds=(0.45, 0.3, 0.35))
    rows, labels = predicted(SCORES, tuned), gold(GOLD)
    values = [metric(FACTS).value(rows, labels) for metric in METRICS]
    assert values == pytest.approx([10 / 11, 2 / 3, (1 + 1 + 2 / 3) / 3, 0.75, 2.5 / 3])


def test_predictions_of_the_same_labels_are_constant_for_all_but_rankings():
    scores = np.linspace(0.1, 0.4, 12)[:, None] * np.ones(3)
    entries = gold(np.arange(12)[:, None] >= [6, 8, 10])
    assert estimate(MicroF1(FACTS), predicted(scores), entries).degenerate == "predictions are constant"
    ranked = estimate(MeanAveragePrecision(FACTS), predicted(scores), entries)
    assert (ranked.value, ranked.degenerate) == (1.0, None)


@every_metric
def test_runs_are_compared_on_the_same_rows(metric):
    scores, entries = random_rows(4, 300)
    worse = np.random.default_rng(0).random(scores.shape)
    difference = paired(metric(FACTS), [predicted(worse)], [predicted(scores)], gold(entries), resamples=400)
    assert difference.first == pytest.approx(value(metric, worse, entries))
    assert difference.value > 0 and difference.low < difference.value < difference.high and 0 < difference.p < 0.05
    same = paired(metric(FACTS), [predicted(scores)], [predicted(scores)], gold(entries), resamples=50)
    assert (same.value, same.p) == (0, 1)


def test_two_runs_that_predict_no_label_differ_in_their_ranking():
    scores = np.linspace(0.1, 0.4, 40)[:, None] * np.ones(3)
    entries = gold(np.arange(40)[:, None] >= [20, 24, 30])
    both = [predicted(scores)], [predicted(scores[::-1])]
    assert paired(MeanAveragePrecision(FACTS), *both, entries, resamples=200).value < -0.3
    assert paired(MicroF1(FACTS), *both, entries, resamples=200).value == 0
    assert len(concat([entries, entries])) == 80
