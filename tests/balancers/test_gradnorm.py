"""GradNorm: weights learned from the norms of the gradients."""

import math

import pytest
import torch

import toy
from mtlcli.balancers.gradnorm import GradNorm
from mtlcli.plugin import StepResult

ALL = torch.tensor([0, 1, 2])
GRAM = torch.tensor([[9.0, 0.5], [0.5, 1.0]])  # norms 3 and 1


def weights(balancer: GradNorm) -> list[float]:
    return torch.stack(list(balancer.weights)).tolist()


def put(balancer: GradNorm, values: list[float]) -> None:
    with torch.no_grad():
        for weight, value in zip(balancer.weights, values, strict=True):
            weight.fill_(value)


def after(balancer: GradNorm, tasks: torch.Tensor) -> list[float]:
    balancer.on_step(StepResult(1, tasks, torch.ones(len(tasks)), torch.ones(len(tasks))))
    return weights(balancer)


def test_with_alpha_zero_every_norm_is_pulled_to_the_mean():
    balancer = GradNorm(toy.facts(2), alpha=0.0)
    aim = balancer.own_objective(torch.tensor([1.0, 5.0]), ALL[:2], GRAM)
    aim.backward()
    assert float(aim.detach()) == pytest.approx(2.0)  # |3 - 2| + |1 - 2|
    # the target is a constant: the derivatives are sign(G - target) times the norm, 3 and -1, not 3 - mean ...
    assert [float(weight.grad) for weight in balancer.weights] == pytest.approx([3.0, -1.0])


def test_a_task_that_lags_behind_has_a_higher_target():
    balancer = GradNorm(toy.facts(2))
    balancer.own_objective(torch.tensor([1.0, 2.0]), ALL[:2], GRAM)  # L(0)
    put(balancer, [0.5, 1.5])
    aim = balancer.own_objective(torch.tensor([0.5, 3.0]), ALL[:2], GRAM)
    # G = 1.5, 1.5; L / L(0) = .5, 1.5, mean 1; targets 1.5 * .5^1.5 = .530330, 1.5 * 1.5^1.5 = 2.755676
    assert float(aim.detach()) == pytest.approx((1.5 - 0.530330) + (2.755676 - 1.5), abs=1e-5)
    aim.backward()
    assert [float(weight.grad) for weight in balancer.weights] == pytest.approx([3.0, -1.0])


def test_the_first_loss_is_kept_and_one_that_is_not_finite_is_not():
    balancer = GradNorm(toy.facts(3))
    balancer.own_objective(torch.tensor([math.nan, math.inf]), ALL[:2], GRAM)
    balancer.own_objective(torch.tensor([0.7, 4.0]), ALL[:2], GRAM)
    balancer.own_objective(torch.tensor([0.1, 0.2]), ALL[1:], GRAM)
    assert balancer.initial.tolist() == pytest.approx([0.7, 4.0, 0.2])


def test_the_loss_of_a_constant_guess_may_be_the_initial_one():
    balancer = GradNorm(toy.facts(2), initial_loss="log-classes")
    assert balancer.initial.tolist() == pytest.approx([math.log(3), 1.0])
    aim = balancer.own_objective(torch.tensor([2 * math.log(3), 2.0]), ALL[:2], GRAM)
    assert float(aim.detach()) == pytest.approx(2.0)  # both rates are alike: targets are the mean, 2
    assert balancer.initial.tolist() == pytest.approx([math.log(3), 1.0])


def test_weights_sum_to_the_number_of_tasks_after_every_step():
    balancer = GradNorm(toy.facts(3))
    put(balancer, [1.5, 1.0, 2.0])
    assert after(balancer, ALL) == pytest.approx([1.0, 2 / 3, 4 / 3])  # times 3 / 4.5


def test_a_task_absent_from_the_step_keeps_its_weight_and_gets_no_gradient():
    balancer = GradNorm(toy.facts(3))
    balancer.own_objective(torch.tensor([1.0, 1.0]), ALL[:2], GRAM).backward()
    assert balancer.weights[2].grad is None
    put(balancer, [1.5, 0.75, 1.0])
    assert after(balancer, ALL[:2]) == pytest.approx([4 / 3, 2 / 3, 1.0])  # times 2 / 2.25
    put(balancer, [1.9, 2 / 3, 1.0])
    assert after(balancer, ALL[:1]) == pytest.approx([4 / 3, 2 / 3, 1.0])  # alone, it has nobody to trade with


def test_a_weight_that_the_optimizer_made_negative_is_put_back_above_zero():
    balancer = GradNorm(toy.facts(2))
    put(balancer, [-0.2, 2.0])
    assert after(balancer, ALL[:2]) == pytest.approx([0.001 * 2 / 2.001, 2 * 2 / 2.001])


def test_learning_makes_the_weighted_norms_alike():
    balancer = GradNorm(toy.facts(2), alpha=0.0)
    optimizer = torch.optim.AdamW(balancer.parameters(), lr=0.025, weight_decay=0.0)
    for _ in range(200):
        optimizer.zero_grad()
        balancer.own_objective(torch.tensor([1.0, 5.0]), ALL[:2], GRAM).backward()
        optimizer.step()
        after(balancer, ALL[:2])
    # 3 w_0 = w_1 and w_0 + w_1 = 2
    assert weights(balancer) == pytest.approx([0.5, 1.5], abs=0.1)
