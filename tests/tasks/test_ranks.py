"""Ordered classes: their order, how probabilities become a class, and averages."""

import numpy as np
import pytest

from mtlcli.errors import MtlError
from mtlcli.tasks.ranks import Ranks
from mtlcli.tasks.targets import BadLabel, Ragged, target_of
from mtlcli.testing import RANKS, check_target


def raws(labels):
    return [{"label": label} for label in labels]


def test_the_contract_of_targets():
    for decode in ("rank", "argmax", "mean"):
        check_target(Ranks({label: label for label in "abc"}, decode=decode, above=(0.5, 0.2)))


@pytest.mark.parametrize("count", [2, 500])
def test_the_contract_holds_for_few_and_many_classes(count):
    above = tuple(1 - (k + 1) / count for k in range(count - 1))
    check_target(Ranks({str(number): str(number) for number in range(count)}, above=above))


def test_a_positive_class_has_no_meaning():
    with pytest.raises(MtlError, match=r"^tasks.t.positive: this task predicts one of 1 < 2 < 3 < 4; remove positive"):
        RANKS.target.with_positive("1", "tasks.t")


def test_many_labels_without_an_order_are_not_all_listed():
    with pytest.raises(MtlError, match=r'"l7" and 2 more have no order'):
        Ranks().fit(raws([f"l{number}" for number in range(10)]))


def test_order_counts_where_two_runs_are_compared():
    up, down = (Ranks({label: label for label in labels}) for labels in ("abc", "cba"))
    assert up.agree(down) == "the ordered labels c < b < a instead of the ordered labels a < b < c"


def test_the_classes_of_rows_give_strata_counts_and_a_confusion_matrix():
    gold, predicted = RANKS.target.pack([0, 1, 1, 3, -1]), RANKS.target.pack([0, 1, 2, 2, 0])
    assert RANKS.target.strata(gold).tolist() == [0, 1, 1, 3, -1]
    assert RANKS.target.class_counts(gold).tolist() == [1, 2, 0, 1]
    assert RANKS.target.confusion(predicted, gold).tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("decode", ["rank", "argmax", "mean"])
def test_float32_rounding_does_not_decide_a_tie(decode):
    # P(y > 0) = P(y > 1) = 1/2 up to the rounding of float32: the median is class 0.
    halves = np.array([[0.5 - 3e-8, 0.0, 0.5 + 3e-8]], dtype=np.float32)
    index = Ranks({label: label for label in "012"}, decode=decode).decided(halves)
    assert index.tolist() == [{"rank": 0, "argmax": 2, "mean": 1}[decode]]


def test_numbers_are_ordered_by_value_and_training_gives_the_shares_above_each():
    target = Ranks().fit(raws(["10", "2", "2", "1"]))
    assert target.labels == ("1", "2", "10")
    assert target.above == (0.75, 0.25)
    assert target.describe() == "one of 1 < 2 < 10"
    assert target_of(target.record()) == target
    with pytest.raises(
        BadLabel,
        match="found '3', expected one of those of the training rows, 1, 2, 10; to allow others, list all in labels",
    ):
        target.parse({"label": "3"})


def test_declared_numbers_allow_what_training_lacks():
    target = Ranks().declare(["1", "2", "3"], None, "tasks.t").fit(raws(["1", "3", "3", "1"]))
    assert target.parse({"label": "2"}) == 1
    assert target.above == (0.5, 0.5)
    with pytest.raises(BadLabel, match=r"found '4', expected one of 1, 2, 3$"):
        target.parse({"label": "4"})


def test_numbers_that_mark_a_row_without_a_label_are_noted():
    target = Ranks().fit(raws(["-1", "1", "2", "3.0"]))
    assert target.notes(raws(["-1", "1"]), training=True) == [
        "'-1' often marks a row without a label, and is a class in this file; to leave these rows out: no_label: ['-1']"
    ]


def test_names_need_an_order():
    with pytest.raises(
        MtlError, match=r'^labels: "bad", "good", "ok" have no order: list all labels here, the lowest first$'
    ):
        Ranks().fit(raws(["good", "bad", "ok"]))
    target = Ranks().declare(["bad", "ok", "good"], None, "tasks.t").fit(raws(["good", "bad", "good", "ok"]))
    assert (target.labels, target.above) == (("bad", "ok", "good"), (0.75, 0.5))


@pytest.mark.parametrize(("decode", "index"), [("rank", 2), ("argmax", 3), ("mean", 2)])
def test_the_ways_to_decode_differ(decode, index):
    probabilities = np.array([[0.141851, 0.212493, 0.313844, 0.331812]])  # P(y > k) = .858, .646, .332; mean 1.836
    assert Ranks({label: label for label in "0123"}, decode=decode).decided(probabilities).tolist() == [index]


def test_an_ensemble_takes_the_median_of_the_mean_distribution():
    target = RANKS.target
    votes = [Ragged({"index": np.array([at]), "probabilities": np.array([p])}) for at, p in (
        (0, [0.9, 0.0, 0.0, 0.1]), (3, [0.0, 0.0, 0.0, 1.0]), (0, [0.6, 0.0, 0.4, 0.0])
    )]  # fmt: skip
    mean = target.average(votes, [target] * 3)
    np.testing.assert_allclose(mean["probabilities"], [[0.5, 0.0, 0.4 / 3, 1.1 / 3]])
    assert mean["index"].tolist() == [0]  # P(y > 0) is exactly one half, which is not above it
