"""Measuring: every labelled row, unseen labels, degenerate rows, and what selects a checkpoint."""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from labels import rows
from mtlcli.data.tokenizer import TokenSequences
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.errors import MtlError
from mtlcli.evaluation.measure import Selection, make_metrics, make_selection, measure
from mtlcli.facts import TaskFacts
from mtlcli.model.predict import predict_rows
from mtlcli.tasks.targets import UNSEEN, Classes, Score
from toy import model

CLASSES = TaskFacts("a", 10, 1, Classes.named("x", "y", "z"))
SCORE = TaskFacts("b", 10, 1, Score(0.0, 5.0, 2.0, 1.5))


def tokenized(lengths: list[int], targets) -> TokenizedSplit:
    """Texts of these lengths: the row's number from 1, again and again."""
    tokens = np.concatenate([np.full(length, row + 1) for row, length in enumerate(lengths)])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    sequences = TokenSequences(tokens, starts, None, 0)
    if targets is None:
        return TokenizedSplit((sequences,), 0)
    return TokenizedSplit((sequences,), 0, CLASSES.target, rows(targets))


# Predicting rows that are in memory


def test_predictions_come_in_the_order_of_the_rows_whatever_their_length():
    lengths = [3, 9, 1, 5, 2, 9, 4]
    together = predict_rows(model(), {0: tokenized(lengths, None)}, torch.device("cpu"), nullcontext())[0]
    for row, length in enumerate(lengths):
        alone = TokenizedSplit((TokenSequences(np.full(length, row + 1), np.array([0, length]), None, 0),), 0)
        found = predict_rows(model(), {0: alone}, torch.device("cpu"), nullcontext())[0]
        assert found.rows["probabilities"][0] == pytest.approx(together.rows["probabilities"][row], abs=1e-5)
        assert found.rows["index"][0] == together.rows["index"][row]


def test_the_loss_leaves_out_rows_whose_label_training_did_not_have():
    targets = np.array([0, UNSEEN, 2])
    found = predict_rows(model(), {0: tokenized([2, 3, 4], targets)}, torch.device("cpu"), nullcontext())[0]
    known = found.rows["probabilities"][[0, 2], [0, 2]].astype(np.float64)
    assert found.loss == pytest.approx(-np.log(known).mean(), abs=1e-6)


def test_rows_without_labels_have_predictions_and_no_loss():
    found = predict_rows(model(), {1: tokenized([2, 3], None)}, torch.device("cpu"), nullcontext())[1]
    assert list(found.rows.fields) == ["value"]
    assert len(found.rows) == 2
    assert np.isnan(found.loss)


def test_the_mode_of_the_model_is_given_back_even_after_an_error():
    made = model().train()
    predict_rows(made, {0: tokenized([2], None)}, torch.device("cpu"), nullcontext())
    assert made.training
    unknown = TokenizedSplit((TokenSequences(np.array([99, 99]), np.array([0, 2]), None, 0),), 0)
    with pytest.raises(IndexError):  # a token number that the toy encoder does not have
        predict_rows(made, {0: unknown}, torch.device("cpu"), nullcontext())
    assert made.training


def test_no_rows_are_a_mistake_of_the_caller():
    nothing = TokenizedSplit((TokenSequences(np.zeros(0, np.int64), np.zeros(1, np.int64), None, 0),), 0)
    with pytest.raises(ValueError, match="no rows"):
        predict_rows(model(), {0: nothing}, torch.device("cpu"), nullcontext())


# Measuring


def test_all_rows_count_and_unseen_labels_count_as_wrong():
    found = measure(
        make_metrics(("accuracy",), CLASSES, "a"),
        rows(np.array([0, 1, 2, 0])),
        rows(np.array([0, 1, 0, UNSEEN])),
        50,
    )["accuracy"]
    assert (found.value, found.n) == (0.5, 4)
    assert 0 <= found.low <= 0.5 <= found.high <= 1


def test_without_resamples_the_interval_is_the_value():
    found = measure(make_metrics(("accuracy",), CLASSES, "a"), rows(np.array([0, 1])), rows(np.array([0, 0])), 0)
    assert (found["accuracy"].value, found["accuracy"].low, found["accuracy"].high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("resamples", [0, 50])
def test_constant_predictions_have_correlation_zero_and_never_nan(resamples):
    metrics = make_metrics(("pearson", "spearman"), SCORE, "b")
    found = measure(metrics, rows(np.array([2.0, 2.0, 2.0])), rows(np.array([1.0, 2.0, 3.0])), resamples)
    assert [one.value for one in found.values()] == [0.0, 0.0]


@pytest.mark.parametrize(("precision", "value"), [("fp32", 1.0), ("bf16", 0.0)])
def test_what_counts_as_constant_goes_by_the_precision_of_the_model(precision, value):
    one_step = SCORE.target.mean + SCORE.target.std * np.array([1.5, 1.5 + 2**-7])  # of bf16
    metrics = make_metrics(("pearson", "spearman"), SCORE, "b", precision)
    found = measure(metrics, rows(one_step), rows(np.array([1.0, 2.0])), 0)
    assert [one.value for one in found.values()] == pytest.approx([value, value])


def test_a_class_that_never_occurs_leaves_macro_f1_finite():
    found = measure(make_metrics(("macro-f1",), CLASSES, "a"), rows(np.array([0, 0])), rows(np.array([0, 0])), 20)
    assert np.isfinite(found["macro-f1"].value)


# What selects a checkpoint


@dataclass
class Bounded:
    bounds: tuple[float, float]
    higher_is_better: bool = True


METRICS = {
    "a": {"accuracy": Bounded((0.0, 1.0)), "macro-f1": Bounded((0.0, 1.0))},
    "b": {"pearson": Bounded((-1.0, 1.0))},
    "c": {"error": Bounded((float("inf"), 0.0), higher_is_better=False)},
}
VALUES = {"a": {"accuracy": 0.8, "macro-f1": 0.6}, "b": {"pearson": 0.5}, "c": {"error": 3.0}}


def score(select_by, evaluated):
    return make_selection(select_by, METRICS, evaluated).score(VALUES, METRICS)


def test_the_mean_is_over_the_primary_metrics():
    assert score("mean", ["a", "b"]) == pytest.approx((0.8 + 0.5) / 2)


def test_a_normalized_mean_runs_from_0_to_1_for_each():
    assert score("normalized-mean", ["a", "b"]) == pytest.approx((0.8 + 0.75) / 2)


def test_a_metric_where_less_is_better_counts_negative():
    assert score("c.error", ["a", "c"]) == -3.0


def test_a_metric_without_bounds_has_no_normalized_mean():
    with pytest.raises(MtlError, match=r"c\.error has no bounds"):
        make_selection("normalized-mean", METRICS, ["a", "c"])


def test_nothing_selects_where_no_task_has_dev_rows():
    assert make_selection("mean", METRICS, []) is None


@pytest.mark.parametrize(
    ("select_by", "why"),
    [
        ("a.acuracy", r'did you mean "a\.accuracy"'),
        ("d.accuracy", "training.select_by: found"),
        ("b.pearson", 'task "b" has no dev rows'),
    ],
)
def test_what_cannot_select_is_an_error_before_training(select_by, why):
    with pytest.raises(MtlError, match=why):
        make_selection(select_by, METRICS, ["a"])


def test_a_selection_by_one_metric_is_its_value():
    assert Selection((("a", "macro-f1"),), False).score(VALUES, METRICS) == 0.6
