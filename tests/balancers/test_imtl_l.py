"""IMTL-L: scales that bring every weighted loss to one."""

import math

import pytest
import torch

import toy
from mtlcli.balancers.imtl_l import IMTLL
from mtlcli.plugin import StepResult

ALL = torch.tensor([0, 1, 2])
LOSSES = torch.tensor([1.0, 2.0, 4.0])


def test_the_objective_by_hand():
    balancer = IMTLL(toy.facts(3), initial_scale=math.log(2))
    assert balancer(LOSSES, ALL).tolist() == pytest.approx([2 * loss - math.log(2) for loss in (1.0, 2.0, 4.0)])
    assert balancer.known_weights(ALL).tolist() == pytest.approx([2.0, 2.0, 2.0])


def test_it_is_plain_summing_before_the_first_step():
    assert IMTLL(toy.facts(3))(LOSSES, ALL).tolist() == [1.0, 2.0, 4.0]


def test_learning_brings_every_weighted_loss_to_one():
    balancer = IMTLL(toy.facts(3))
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.025)
    for _ in range(400):
        optimizer.zero_grad()
        balancer(LOSSES, ALL).sum().backward()
        optimizer.step()
    torch.testing.assert_close(balancer.known_weights(ALL) * LOSSES, torch.ones(3), rtol=0, atol=0.01)


def test_an_absent_task_gets_no_gradient_at_all():
    balancer = IMTLL(toy.facts(3))
    balancer(LOSSES[1:], ALL[1:]).sum().backward()
    # exp(0) L - 1
    assert [None if s.grad is None else float(s.grad) for s in balancer.scale] == [None, 1.0, 3.0]


def test_a_scale_beyond_the_bounds_is_put_back():
    balancer = IMTLL(toy.facts(2))
    with torch.no_grad():
        balancer.scale[1].fill_(12.0)
    balancer.on_step(StepResult(1, ALL[:2], LOSSES[:2], torch.ones(2)))
    assert torch.stack(list(balancer.scale)).tolist() == [0.0, 10.0]
