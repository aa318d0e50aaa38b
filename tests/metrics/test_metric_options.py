"""Options of metrics, and their titles in results."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from labels import measured, rows
from mtlcli.config.schema import MetricChoice, TaskConfig
from mtlcli.errors import MtlError
from mtlcli.evaluation.measure import make_metrics
from mtlcli.facts import TaskFacts
from mtlcli.metrics.binary import F1, AveragePrecision, Precision, Recall, RocAuc
from mtlcli.metrics.calibration_error import CalibrationError, Reliability
from mtlcli.metrics.titles import is_weighted, plugin_of
from mtlcli.tasks.targets import Classes, Ragged

ABC = TaskFacts("topics", 10, 1, Classes.named("a", "b", "c"))


def test_an_option_names_the_positive_class_and_wins_over_that_of_the_task():
    predicted, gold = np.array([0, 0, 1]), np.array([0, 1, 1])
    ones = np.ones((1, 3), dtype=int)
    facts = TaskFacts("topics", 10, 1, ABC.target.with_positive("a", ""))
    assert measured(Precision(facts), predicted, gold, ones)[0] == 0.5
    assert measured(Precision(facts, positive="b"), predicted, gold, ones)[0] == 1


@pytest.mark.parametrize("metric", [F1, Precision, Recall, RocAuc, AveragePrecision])
def test_an_unknown_positive_class_is_an_error_that_names_the_classes(metric):
    with pytest.raises(MtlError, match=r'tasks.topics.metrics.positive: found "x", expected one of a, b, c'):
        metric(ABC, positive="x")


def test_an_average_has_no_positive_class():
    with pytest.raises(MtlError, match="positive excludes average: macro"):
        F1(ABC, positive="a", average="macro")


@pytest.mark.parametrize("average", ["macro", "weighted"])
@pytest.mark.parametrize(
    ("metric", "reference"), [(F1, f1_score), (Precision, precision_score), (Recall, recall_score)]
)
def test_averages_are_those_of_scikit_learn(metric, reference, average):
    generator = np.random.default_rng(5)
    gold, predicted, weights = generator.integers(3, size=50), generator.integers(2, size=50), generator.random(50)
    built = metric(ABC, average=average)
    counts = np.stack([np.ones(50), weights])
    expected = [
        reference(gold, predicted, average=average, sample_weight=weight, zero_division=0) for weight in (None, weights)
    ]
    assert measured(built, predicted, gold, counts) == pytest.approx(expected)


def test_the_calibration_error_depends_on_the_bins():
    # Confidences .6 and .9: right, wrong. In one bin |1 - 1.5| / 2, in two bins of width .25 (.4 + .9) / 2.
    predicted = Ragged({"index": np.array([0, 0]), "probabilities": np.array([[0.6, 0.4, 0], [0.9, 0.1, 0]])})
    gold = rows(np.array([0, 1]))
    assert CalibrationError(ABC, bins=1).value(predicted, gold) == pytest.approx(0.25)
    assert CalibrationError(ABC, bins=4).value(predicted, gold) == pytest.approx(0.65)


def test_a_reliability_diagram_has_the_means_of_its_bins():
    shares = np.array([[0.6, 0.4, 0], [0.7, 0.3, 0], [1.0, 0, 0]])
    predicted = Ragged({"index": np.zeros(3, dtype=np.int64), "probabilities": shares})
    bins = Reliability.of(predicted, rows(np.array([0, 1, 0])), 2, np.array([1.0, 3.0, 4.0]))
    assert bins.rows.tolist() == [0, 8]
    assert np.isnan(bins.accuracy[0]) and np.isnan(bins.confidence[0])
    assert (bins.confidence[1], bins.accuracy[1]) == pytest.approx(((0.6 + 3 * 0.7 + 4) / 8, 5 / 8))


# Titles


def titles(*specs, weighted=False):
    return list(make_metrics(specs, ABC, "tasks.topics.metrics", weighted=weighted))


def test_a_title_names_the_options_that_differ_from_the_default():
    assert titles(
        "accuracy", {"name": "f1", "positive": "a"}, {"name": "f1", "positive": "b", "average": "binary"},
        {"name": "calibration-error", "bins": 15}, {"name": "calibration-error", "bins": 10},
    ) == ["accuracy", "f1[positive=a]", "f1[positive=b]", "calibration-error", "calibration-error[bins=10]"]  # fmt: skip


def test_a_title_says_that_rows_are_weighted():
    assert titles("accuracy", {"name": "f1", "positive": "a"}, weighted=True) == [
        "accuracy[weighted]", "f1[positive=a,weighted]",
    ]  # fmt: skip
    assert [plugin_of(title) for title in titles("accuracy", weighted=True)] == ["accuracy"]


def test_an_average_that_is_weighted_is_no_weighting_of_rows():
    plain, of_rows = (
        titles({"name": "f1", "average": "weighted"}),
        titles({"name": "f1", "average": "macro"}, weighted=True),
    )
    assert (plain, of_rows) == (["f1[average=weighted]"], ["f1[average=macro,weighted]"])
    assert not is_weighted(plain[0]) and is_weighted(of_rows[0]) and not is_weighted("accuracy")


def test_a_title_has_no_slash_by_which_the_log_separates():
    facts = TaskFacts("t", 10, 1, Classes.named("and/or", "b"))
    assert list(make_metrics([{"name": "f1", "positive": "and/or"}], facts, "t")) == ["f1[positive=and_or]"]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"name": "calibration-error", "bins": 0}, "bins: found 0: input should be greater than or equal to 1"),
        ({"name": "calibration-error", "bin": 3}, 'bin: unknown option of "calibration-error"; did you mean "bins"?'),
        ("pearson", '"pearson" measures score, and this task predicts one of a, b, c'),
        ("acuracy", 'unknown metric "acuracy"; did you mean "accuracy"?'),
    ],
)
def test_what_a_metric_does_not_accept_is_one_line(spec, problem):
    with pytest.raises(MtlError) as error:
        make_metrics([spec], ABC, "tasks.t.metrics")
    assert error.value.lines == (f"tasks.t.metrics: {problem}",)


# In a recipe


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("accuracy, mcc", ["accuracy", "mcc"]),
        (
            ["accuracy", {"name": "calibration-error", "bins": 5}],
            ["accuracy", {"name": "calibration-error", "bins": 5}],
        ),
        ({"name": "f1", "positive": "a"}, [{"name": "f1", "positive": "a"}]),
    ],
)
def test_metrics_are_written_by_name_or_with_options(written, names):
    section = TaskConfig(metrics=written)
    assert section.model_dump()["metrics"] == names
    assert TaskConfig.model_validate(section.model_dump()).metrics == section.metrics


def test_the_default_of_an_option_is_part_of_the_resolved_recipe():
    choice = MetricChoice(name="calibration-error")
    assert choice.check("tasks.t.metrics") == []
    assert choice.model_dump() == {"name": "calibration-error", "bins": 15}
