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


def test_numbers_are_ordered_by_value_and_training_gives_the_shares_above_each():
    target = Ranks().fit(raws(["10", "2", "2", "1"]))
    assert target.labels == ("1", "2", "10")
    assert target.above == (0.75, 0.25)
    assert target.describe() == "one of 1 < 2 < 10"
    assert target_of(target.record()) == target
    with pytest.raises(BadLabel, match="found '3', expected one of 1, 2, 10"):
        target.parse({"label": "3"})


def test_names_need_an_order():
    with pytest.raises(MtlError, match="the labels 'bad', 'good', 'ok' have no order: list all labels"):
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
