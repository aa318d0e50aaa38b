"""RLW: random weights that a checkpoint brings back."""

import pytest
import torch

import toy
from mtlcli.balancers.rlw import RLW
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult

ALL = torch.tensor([0, 1, 2])


def step(balancer: RLW, number: int = 1) -> None:
    balancer.on_step(StepResult(number, ALL, torch.ones(3), torch.ones(3)))


def test_weights_are_the_softmax_of_the_numbers_drawn_and_sum_to_one_over_the_tasks_of_the_step():
    balancer = RLW(toy.facts(3))
    balancer.logits.copy_(torch.tensor([0.0, 1.0, 2.0]))
    # exp: 1, 2.718282, 7.389056; of all three: sum 11.107338; of the last two: sum 10.107338
    assert balancer.known_weights(ALL).tolist() == pytest.approx([0.090031, 0.244728, 0.665241], abs=1e-6)
    assert balancer.known_weights(ALL[1:]).tolist() == pytest.approx([0.268941, 0.731059], abs=1e-6)
    assert balancer.known_weights(ALL[1:2]).tolist() == [1.0]


def test_every_step_has_weights_of_its_own_which_depend_on_the_seed_alone():
    def drawn(seed: int) -> list[list[float]]:
        balancer = RLW(RunFacts(toy.facts(3).tasks, seed=seed))
        found = []
        for number in range(1, 5):
            found.append(balancer.known_weights(ALL).tolist())
            step(balancer, number)
        return found

    assert drawn(1) == drawn(1) != drawn(2)
    assert len({tuple(one) for one in drawn(1)}) == 4


def test_each_task_has_its_fair_share_in_the_long_run():
    balancer = RLW(toy.facts(3))
    total = torch.zeros(3)
    for number in range(2000):
        total += balancer.known_weights(ALL)
        step(balancer, number)
    # the standard deviation of one weight is below .25, that of the mean of 2000 below .006
    torch.testing.assert_close(total / 2000, torch.full((3,), 1 / 3), rtol=0, atol=0.025)


def test_the_numbers_drawn_are_standard_normal():
    balancer = RLW(toy.facts(3))
    numbers = []
    for number in range(3000):
        numbers.append(balancer.logits.clone())
        step(balancer, number)
    logits = torch.stack(numbers)
    assert float(logits.mean()) == pytest.approx(0.0, abs=0.04)
    assert float(logits.std()) == pytest.approx(1.0, abs=0.04)
    # 0.27 % of normal numbers are beyond 3; a uniform distribution of this deviation ends at 1.74.
    assert float((logits.abs() > 3).double().mean()) == pytest.approx(0.0027, abs=0.0016)
