"""Epoch sigmoid: equation 1 of the survey."""

import math

import pytest
import torch

import toy
from mtlcli.balancers.epoch_sigmoid import EpochSigmoid
from mtlcli.errors import MtlError
from mtlcli.plugin import EpochResult

ALL = torch.tensor([0, 1, 2])


def by_epoch(epochs: int, **options) -> list[list[float]]:
    balancer = EpochSigmoid(toy.facts(3), **options)
    found = [balancer.known_weights(ALL).tolist()]
    for epoch in range(epochs):
        balancer.on_epoch(EpochResult(epoch, {}))
        found.append(balancer.known_weights(ALL).tolist())
    return found


def test_a_weight_is_half_its_final_one_when_its_epochs_are_over():
    found = by_epoch(2, start={"b": 1, "c": 2}, weights={"b": 4.0})
    # 1 / (1 + e) = .268941, 1 / (1 + e^2) = .119203, 1 / (1 + 1/e) = .731059
    assert found[0] == pytest.approx([1.0, 4 * 0.268941, 0.119203], abs=1e-5)
    assert found[1] == pytest.approx([1.0, 2.0, 0.268941], abs=1e-5)
    assert found[2] == pytest.approx([1.0, 4 * 0.731059, 0.5], abs=1e-5)


def test_a_low_temperature_is_a_switch():
    assert by_epoch(2, start={"c": 1.5}, temperature=0.001) == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_it_is_the_printed_equation():
    found = by_epoch(3, start={"a": 1.7}, weights={"a": 0.3}, temperature=2.5)
    for epoch, weights in enumerate(found):
        assert weights[0] == pytest.approx(0.3 / (1 + math.exp((1.7 - epoch) / 2.5)))


def test_unknown_tasks_are_all_named():
    with pytest.raises(MtlError) as error:
        EpochSigmoid(toy.facts(3), start={"aa": 1.0}, weights={"d": 2.0})
    assert error.value.lines == (
        'balancer.start.aa: no such task; did you mean "a"?',
        "balancer.weights.d: no such task; there are: a, b, c",
    )
