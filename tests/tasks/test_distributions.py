"""Distributions as labels: columns, objects, counts, and what is refused."""

import math

import numpy as np
import pytest

from mtlcli.tasks.distributions import Distributions
from mtlcli.tasks.targets import BadLabel, target_of
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
        ({"a": "0.5", "c": "0.5"}, "the class 'c' is not one of training"),
        ("a", "expected a number for each class"),
        (None, "expected a number for each class"),
    ],
)
def test_what_is_no_distribution_is_refused(label, message):
    target = fit({"a": "1", "b": "0"}, {"a": "0.5", "b": "0.5"})
    with pytest.raises(BadLabel, match=message):
        target.parse({"label": label})


def test_certain_labels_are_remarked():
    target = fit({"a": "1", "b": "0"}, {"a": "0", "b": "1"})
    gold = target.pack([np.array([1.0, 0.0]), np.array([0.0, 1.0])])
    assert target.remarks([], gold, "a", training=True) == [
        "every label is one certain class; is it kind: classification?"
    ]
    assert target.check(gold) == ["mean probabilities a 0.5, b 0.5"]
