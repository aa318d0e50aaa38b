"""Ratio clamp: the weight of one task, moved by the ratio of two losses."""

import pytest
import torch

import toy
from mtlcli.balancers.ratio_clamp import RatioClamp
from mtlcli.errors import MtlError
from mtlcli.plugin import StepResult

ALL = torch.tensor([0, 1, 2])


def step(balancer: RatioClamp, losses: dict[int, float]) -> float:
    tasks = torch.tensor(list(losses))
    balancer.on_step(StepResult(1, tasks, torch.tensor(list(losses.values())), torch.ones(len(losses))))
    return float(balancer.weight)


def test_the_weight_is_multiplied_by_the_ratio_of_the_losses_step_after_step():
    balancer = RatioClamp(toy.facts(3), primary="c", reference="a")
    assert balancer.known_weights(ALL).tolist() == pytest.approx([1.0, 1.0, 0.1])
    assert step(balancer, {0: 1.0, 1: 9.0, 2: 1.5}) == pytest.approx(0.15)
    assert step(balancer, {0: 1.0, 1: 9.0, 2: 2.0}) == pytest.approx(0.3)  # 2 * .15, not 2 * .1
    assert balancer.known_weights(ALL).tolist() == pytest.approx([1.0, 1.0, 0.3])


def test_the_weight_stays_between_its_bounds():
    balancer = RatioClamp(toy.facts(2))
    assert step(balancer, {0: 50.0, 1: 1.0}) == 1.0
    assert step(balancer, {0: 1.0, 1: 1e6}) == pytest.approx(0.01)
    assert step(balancer, {0: 1.0, 1: 0.0}) == 1.0


def test_a_ratio_that_stays_above_one_drives_the_weight_to_its_bound():
    balancer = RatioClamp(toy.facts(2))
    found = [step(balancer, {0: 1.1, 1: 1.0}) for _ in range(25)]
    assert found[22] == pytest.approx(0.1 * 1.1**23)  # .895: 1.1^24 = 9.85, 1.1^25 = 10.83
    assert found[24] == 1.0


def test_tasks_that_come_one_at_a_time_are_compared_by_their_last_losses():
    balancer = RatioClamp(toy.facts(3))
    assert step(balancer, {0: 3.0}) == pytest.approx(0.1)  # nothing to compare with yet
    assert step(balancer, {1: 2.0}) == pytest.approx(0.1)  # moves only with the primary task
    assert step(balancer, {2: 9.0}) == pytest.approx(0.1)
    assert step(balancer, {0: 3.0}) == pytest.approx(0.15)


def test_without_names_the_first_task_is_compared_with_the_next():
    def roles(**options: str) -> tuple[int, int | None]:
        balancer = RatioClamp(toy.facts(3), **options)
        return balancer.primary, balancer.reference

    assert roles() == (0, 1)
    assert roles(primary="b") == (1, 0)
    assert roles(reference="a") == (1, 0)
    assert roles(primary="c", reference="b") == (2, 1)


def test_a_run_of_one_task_has_nothing_to_hold_back():
    balancer = RatioClamp(toy.facts(1))
    assert step(balancer, {0: 3.0}) == 1.0


def test_names_and_bounds_that_cannot_be_are_refused():
    for options, message in (
        ({"primary": "x"}, "balancer.primary: no task x; there are: a, b, c"),
        ({"reference": "aa"}, 'balancer.reference: no task aa; did you mean "a"'),
        ({"primary": "a", "reference": "a"}, "balancer.reference: a is also the primary task"),
        ({"initial": 2.0}, r"balancer.initial: found 2; expected 0.01 \(lowest\) to 1 \(highest\)"),
    ):
        with pytest.raises(MtlError, match=message):
            RatioClamp(toy.facts(3), **options)
