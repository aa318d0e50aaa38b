"""FAMO: weights moved by what the last update did to the losses."""

import math

import pytest
import torch

import toy
from mtlcli.balancers.famo import FAMO
from mtlcli.plugin import StepResult

ALL = torch.tensor([0, 1, 2])


def step(balancer: FAMO, tasks: list[int], before: list[float], after: list[float]) -> list[float]:
    losses = torch.tensor(before)
    result = StepResult(1, torch.tensor(tasks), losses, torch.ones(len(tasks)), None, torch.tensor(after))
    balancer.on_step(result)
    return balancer.logits.tolist()


def test_the_objective_and_its_weights_by_hand():
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    objectives = FAMO(toy.facts(2))(losses, ALL[:2])
    # z = 1/2, 1/2; c = 1 / (.5 / 1 + .5 / 2) = 4/3; c z log D = 0, 2/3 log 2
    assert objectives.tolist() == pytest.approx([0.0, 2 / 3 * math.log(2)], abs=1e-6)
    objectives.sum().backward()
    assert losses.grad.tolist() == pytest.approx([2 / 3, 1 / 3])  # c z / D


@pytest.mark.parametrize("tasks", [[0], [1, 2], [0, 1, 2]])
def test_the_weights_of_a_step_sum_to_one(tasks):
    balancer = FAMO(toy.facts(3))
    balancer.logits.copy_(torch.tensor([0.3, -1.0, 0.5]))
    losses = torch.tensor([0.2, 3.0, 0.9])[tasks].requires_grad_()
    balancer(losses, torch.tensor(tasks)).sum().backward()
    assert float(losses.grad.sum()) == pytest.approx(1.0)


def test_the_task_that_improved_least_gains():
    # log D before - after = 0, log 2; times the derivative of the softmax: -.173, .173; Adam's first step is lr
    found = step(FAMO(toy.facts(2)), [0, 1], [1.0, 2.0], [1.0, 1.0])
    assert found == pytest.approx([0.025, -0.025], rel=1e-4)


def test_a_task_absent_from_the_step_keeps_its_weight_and_its_averages():
    balancer = FAMO(toy.facts(3))
    step(balancer, [0, 1, 2], [1.0, 2.0, 1.0], [0.5, 2.0, 1.0])
    kept = [buffer[2].item() for buffer in (balancer.logits, balancer.average, balancer.square, balancer.steps)]
    step(balancer, [0, 1], [1.0, 2.0], [1.0, 0.1])
    assert kept == [buffer[2].item() for buffer in (balancer.logits, balancer.average, balancer.square, balancer.steps)]
    assert balancer.steps.tolist() == [2, 2, 1]


def test_the_logits_move_as_autograd_and_torchs_adam_would_move_them():
    balancer = FAMO(toy.facts(3), lr=0.1, weight_decay=0.05)
    w = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.1, weight_decay=0.05)
    random = torch.Generator().manual_seed(3)
    for _ in range(20):
        before, after = torch.rand(3, generator=random) + 0.1, torch.rand(3, generator=random) + 0.1
        step(balancer, [0, 1, 2], before.tolist(), after.tolist())
        optimizer.zero_grad()
        (torch.softmax(w, 0) * ((before + 1e-8).log() - (after + 1e-8).log())).sum().backward()
        optimizer.step()
    torch.testing.assert_close(balancer.logits, w.detach(), rtol=1e-4, atol=1e-5)
    assert w.detach().abs().max() > 0.1


def test_losses_of_zero_stay_finite():
    balancer = FAMO(toy.facts(2))
    assert all(map(math.isfinite, step(balancer, [0, 1], [0.0, 1e6], [1e6, 0.0])))
