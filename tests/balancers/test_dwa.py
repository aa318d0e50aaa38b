"""DWA: weights from the rates at which the means of two epochs fell."""

import math

import pytest
import torch

import toy
from mtlcli.balancers.dwa import DWA
from mtlcli.plugin import EpochResult, StepResult

ALL = torch.tensor([0, 1, 2])


def told(*epochs: dict[int, float], tasks: int = 3, **options) -> DWA:
    balancer = DWA(toy.facts(tasks), **options)
    for number, losses in enumerate(epochs):
        balancer.on_epoch(EpochResult(number, losses))
    return balancer


def test_tasks_count_one_until_two_epochs_are_over():
    for epochs in ([], [{0: 2.0, 1: 3.0, 2: 1.0}]):
        assert told(*epochs).known_weights(ALL).tolist() == [1.0, 1.0, 1.0]


def test_a_task_that_stands_still_gains_on_one_that_halved_its_loss():
    # r = .5, 1; softmax of r / 2: exp(.25) : exp(.5) = 1.284025 : 1.648721, times 2 / 2.932747
    found = told({0: 2.0, 1: 3.0}, {0: 1.0, 1: 3.0}, tasks=2).known_weights(ALL[:2])
    assert found.tolist() == pytest.approx([0.875647, 1.124353], abs=1e-6)


def test_only_the_last_two_epochs_count():
    old, new = {0: 9.0, 1: 1.0, 2: 1.0}, [{0: 2.0, 1: 3.0, 2: 1.0}, {0: 1.0, 1: 3.0, 2: 2.0}]
    assert torch.equal(told(old, *new).known_weights(ALL), told(*new).known_weights(ALL))


def test_weights_of_some_tasks_are_a_slice_of_all_which_sum_to_their_number():
    balancer = told({0: 2.0, 1: 3.0, 2: 1.0}, {0: 1.0, 1: 3.0, 2: 0.9})
    weights = balancer.known_weights(ALL)
    assert float(weights.sum()) == pytest.approx(3)
    assert torch.equal(balancer.known_weights(torch.tensor([2, 0])), weights[[2, 0]])


def test_a_high_temperature_makes_the_weights_alike():
    weights = told({0: 2.0, 1: 3.0, 2: 1.0}, {0: 1.0, 1: 3.0, 2: 0.1}, temperature=1e6).known_weights(ALL)
    torch.testing.assert_close(weights, torch.ones(3), rtol=0, atol=1e-5)


def test_a_task_that_an_epoch_does_not_visit_keeps_its_two_means():
    balancer = told({0: 2.0, 1: 3.0}, {0: 1.0, 1: 3.0}, {1: 3.0}, tasks=2)
    assert balancer.known_weights(ALL[:2]).tolist() == pytest.approx([0.875647, 1.124353], abs=1e-6)


def test_a_task_seen_in_one_epoch_counts_one_and_the_others_share_the_rest():
    # r = 1, 1 of the known ones: 2 softmax = 1, 1; then r = 0.5, 1 as above
    balancer = told({0: 2.0, 1: 3.0}, {0: 1.0, 1: 3.0, 2: 7.0})
    assert balancer.known_weights(ALL).tolist() == pytest.approx([0.875647, 1.124353, 1.0], abs=1e-6)


def test_a_window_of_steps_takes_the_place_of_the_epoch():
    balancer = DWA(toy.facts(2), window=2)
    # windows of steps 1-2 and 3-4: task 0 has means 2 and 1; task 1 was not in step 2: 3 and 3
    steps = [([0, 1], [1.0, 3.0]), ([0], [3.0]), ([0, 1], [0.5, 2.0]), ([0, 1], [1.5, 4.0])]
    for number, (tasks, losses) in enumerate(steps, 1):
        assert balancer.known_weights(ALL[:2]).tolist() == [1.0, 1.0]
        balancer.on_step(StepResult(number, torch.tensor(tasks), torch.tensor(losses), torch.ones(len(tasks))))
        balancer.on_epoch(EpochResult(0, {0: 100.0, 1: 0.1}))  # not heard
    assert balancer.known_weights(ALL[:2]).tolist() == pytest.approx([0.875647, 1.124353], abs=1e-6)


def test_a_loss_that_left_zero_takes_the_weight_and_stays_finite():
    weights = told({0: 0.0, 1: 1.0, 2: 1.0}, {0: 1e6, 1: 1.0, 2: 0.0}).known_weights(ALL)
    assert weights.tolist() == [3.0, 0.0, 0.0]
    assert math.isfinite(float(weights.sum()))
