"""Distributions as labels: columns, objects, counts, and what is refused."""

import math

import numpy as np
import pytest

from mtlcli.errors import MtlError
from mtlcli.tasks.distributions import Distributions
from mtlcli.tasks.targets import BadLabel, Ragged, target_of
from mtlcli.testing import MIXTURES, check_target


def test_the_contract_of_targets():
    check_target(MIXTURES.target)


def fit(*labels, **options):
    return Distributions(**options).fit([{"label": label} for label in labels])


def test_columns_keep_their_order_and_objects_name_what_they_have():
    columns = fit({"joy": "0.7", "fear": "0.3"}, {"joy": "0", "fear": "1.0"})
    assert columns.labels == ("joy", "fear")
    assert columns.parse({"label": {"joy": "0.2", "fear": "0.8"}}).tolist() == [0.2, 0.8]
    objects = fit({"joy": 0.7, "fear": 0.3}, {"probabilities": {"anger": 1}})
    assert objects.labels == ("anger", "fear", "joy")
    assert objects.parse({"label": {"joy": 1}}).tolist() == [0, 0, 1]
    assert target_of(objects.record()) == objects


def test_counts_are_divided_by_their_sum():
    target = fit({"a": "3", "b": "1"}, {"a": "0", "b": "2"}, counts=True)
    assert target.parse({"label": {"a": "3", "b": "1"}}).tolist() == [0.75, 0.25]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert target.entropy == pytest.approx(entropy / 2)
    assert target.guess == pytest.approx(math.log(2) - entropy / 2)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"a": "1", "b": "0.3"}, r"probabilities sum to 1.3, expected 1 \(counts: true divides by the sum\)"),
        ({"a": "-1", "b": "2"}, "found '-1' for 'a', expected a number >= 0"),
        ({"a": "x", "b": "1"}, "found 'x' for 'a'"),
        ({"a": "0", "b": "0"}, "all numbers are 0"),
        ({"a": "0.5", "c": "0.5"}, "found the class 'c', expected those of the training rows, a, b"),
        ("a", "expected a number for each class"),
        ("c", "expected a number for each class"),
        ({}, "expected a number for each class"),
        (["0.5", "0.5"], "expected a number for each class"),
        (None, "^ is empty$"),
        ({"a": "", "b": ""}, "^ is empty$"),
        ({"a": "nan", "b": "1"}, "found 'nan' for 'a', expected a number >= 0"),
    ],
)
def test_what_is_no_distribution_is_refused(label, message):
    target = fit({"a": "1", "b": "0"}, {"a": "0.5", "b": "0.5"})
    with pytest.raises(BadLabel, match=message):
        target.parse({"label": label})


def test_a_class_that_is_nearly_right_is_suggested():
    for target in (
        fit({"joy": "1", "fear": "0"}),
        Distributions().declare(["joy", "fear"], None, "tasks.t").fit([{"label": {"joy": "1"}}]),
    ):
        with pytest.raises(BadLabel, match=r'found the class \'feer\', expected .*joy, fear; did you mean "fear"\?'):
            target.parse({"label": {"feer": "1"}})


def test_counts_beyond_all_bounds_are_refused():
    with pytest.raises(BadLabel, match="the sum of the numbers is too large"):
        fit({"a": "1", "b": "3"}, counts=True).parse({"label": {"a": "1e308", "b": "1e308"}})


def test_options_without_a_meaning_for_distributions_are_refused():
    with pytest.raises(MtlError, match=r"^tasks.t.normalize_labels: the classes of this task are names of columns"):
        Distributions().spelled(None, True, "tasks.t")
    with pytest.raises(MtlError, match=r"^tasks.t.positive: this task predicts a distribution"):
        Distributions().with_positive("a", "tasks.t")


def test_aliases_merge_columns():
    target = (
        Distributions(counts=True)
        .spelled({"cheer": "joy"}, False, "tasks.t")
        .fit([{"label": {"joy": "1", "cheer": "1", "fear": "2"}}])
    )
    assert target.labels == ("joy", "fear")
    assert target.parse({"label": {"joy": "1", "cheer": "2", "fear": "1"}}).tolist() == [0.75, 0.25]


def test_rows_without_a_label_change_neither_entropy_of_others_nor_units():
    target = MIXTURES.target
    gold = target.gold_from_json([None, {"a": 0.5, "b": 0.5, "c": 0.0}])
    assert target.units(gold).tolist() == [0.0, 1.0]
    assert target.collate(gold, np.arange(2))["probabilities"].tolist() == [[0, 0, 0], [0.5, 0.5, 0]]
    assert target.check(gold) == ["mean probabilities a 0.5, b 0.5, c 0"]


def test_rows_without_a_label_hide_no_remark():
    target = fit({"a": "1", "b": "0"}, {"a": "0", "b": "1"})
    gold = target.gold_from_json([None, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0}])
    assert target.is_constant(gold)
    assert target.remarks([], gold, "a", training=True) == [
        "every label is one certain class; is it kind: classification?"
    ]


def test_the_mean_of_votes_matches_classes_by_name():
    target, other = (Distributions({name: name for name in names}) for names in ("ab", "ba"))
    votes = [
        Ragged({"index": np.array([0]), "probabilities": np.array([[0.9, 0.1]])}),
        Ragged({"index": np.array([0]), "probabilities": np.array([[0.7, 0.3]])}),
    ]
    mean = target.average(votes, [target, other])
    np.testing.assert_allclose(mean["probabilities"], [[0.6, 0.4]])
    assert target.soft(mean)["probabilities"] is mean["probabilities"]


@pytest.mark.parametrize("count", [2, 500])
def test_the_contract_holds_for_few_and_many_classes(count):
    check_target(Distributions({str(number): str(number) for number in range(count)}, entropy=0.5))


def test_certain_labels_are_remarked():
    target = fit({"a": "1", "b": "0"}, {"a": "0", "b": "1"})
    gold = target.pack([np.array([1.0, 0.0]), np.array([0.0, 1.0])])
    assert target.remarks([], gold, "a", training=True) == [
        "every label is one certain class; is it kind: classification?"
    ]
    assert target.check(gold) == ["mean probabilities a 0.5, b 0.5"]
