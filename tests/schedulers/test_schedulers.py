"""Schedulers: shares, epochs, and that a step depends on (seed, position) alone."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import toy
from mtlcli import registry
from mtlcli.config.schema import SchedulerChoice
from mtlcli.schedulers.annealed import Annealed
from mtlcli.schedulers.base import Position, Visit, draws, fewest_and_most, power_of_sizes
from mtlcli.schedulers.fixed_ratio import FixedRatio
from mtlcli.schedulers.linear_temperature import LinearTemperature
from mtlcli.schedulers.proportional import Proportional
from mtlcli.schedulers.round_robin import RoundRobin
from mtlcli.schedulers.shuffled import Shuffled
from mtlcli.schedulers.similarity import Similarity
from mtlcli.schedulers.temperature import Temperature
from small import count_visits

RUN = toy.facts(3)  # rows 100, 300, 50; batches 10, 30, 5


def test_cycling_visits_every_task_for_one_pass_of_the_largest():
    scheduler = RoundRobin(RUN)
    assert scheduler.steps_per_epoch() == 30
    assert count_visits(scheduler, 3, 60, 30) == [60, 60, 60]


def test_stopping_ends_the_epoch_with_the_smallest():
    assert RoundRobin(RUN, exhausted="stop").steps_per_epoch() == 5


def test_dropping_gives_every_task_exactly_its_batches():
    scheduler = RoundRobin(RUN, exhausted="drop")
    assert scheduler.tasks_per_step == "several"
    assert count_visits(scheduler, 3, 60, scheduler.steps_per_epoch()) == [20, 60, 10]
    assert scheduler.visits(Position(12, 60, 30)) == [Visit(1)]


def test_micro_batches_shorten_the_epoch():
    run = replace(RUN, micro_batches=4)
    assert RoundRobin(run).steps_per_epoch() == 8
    assert RoundRobin(run).visits(Position(0, 8, 8)) == [Visit(0, 4), Visit(1, 4), Visit(2, 4)]
    assert count_visits(RoundRobin(run, exhausted="drop"), 3, 8, 8) == [10, 30, 5]


def test_proportional_draws_by_size_and_an_epoch_is_about_one_pass_over_everything():
    scheduler = Proportional(RUN)
    assert scheduler.steps_per_epoch() == 45
    counts = count_visits(scheduler, 3, 9000, 45)
    assert [count / 9000 for count in counts] == pytest.approx([100 / 450, 300 / 450, 50 / 450], abs=0.02)


def test_several_draws_of_one_task_are_its_micro_batches():
    run = replace(RUN, micro_batches=6)
    scheduler = Proportional(run)
    for step in range(50):
        visits = scheduler.visits(Position(step, 50, 50))
        assert sum(visit.micro_batches for visit in visits) == 6
        assert len({visit.task for visit in visits}) == len(visits)


def test_temperature_one_is_proportional_and_a_large_one_uniform():
    torch.testing.assert_close(Temperature(RUN, temperature=1.0).probabilities, Proportional(RUN).probabilities)
    assert Temperature(RUN, temperature=float("inf")).probabilities.tolist() == pytest.approx([1 / 3] * 3)
    by_hand = torch.tensor([100.0, 300.0, 50.0], dtype=torch.float64).sqrt()
    torch.testing.assert_close(Temperature(RUN, temperature=2.0).probabilities, by_hand / by_hand.sum())


def test_annealing_ends_at_a_fifth_and_not_at_equal():
    assert power_of_sizes(RUN, 0.2).tolist() == pytest.approx(
        [n**0.2 / (100**0.2 + 300**0.2 + 50**0.2) for n in (100, 300, 50)]
    )
    counts = Counter()
    for seed in range(3000):
        scheduler = Annealed(replace(RUN, seed=seed))
        counts[scheduler.visits(Position(44, 45, 45))[0].task] += 1
    expected = power_of_sizes(RUN, 0.2).tolist()
    assert [counts[task] / 3000 for task in range(3)] == pytest.approx(expected, abs=0.03)


def test_annealing_one_epoch_and_one_step_divide_by_nothing():
    assert Annealed(RUN).visits(Position(0, 1, 1))
    assert Position(0, 1, 1).progress == 0.0
    assert Position(44, 45, 45).progress == 1.0


@pytest.mark.parametrize("make", [Proportional, Annealed, Temperature, RoundRobin])
def test_a_step_is_a_function_of_seed_and_position(make):
    first, second = make(RUN), make(RUN)
    forward = [first.visits(Position(step, 40, 40)) for step in range(40)]
    backward = [second.visits(Position(step, 40, 40)) for step in reversed(range(40))]
    assert forward == backward[::-1]


def test_another_seed_draws_another_order():
    def order(seed: int) -> tuple[int, ...]:
        scheduler = Proportional(replace(RUN, seed=seed))
        return tuple(scheduler.visits(Position(step, 40, 40))[0].task for step in range(40))

    assert len({order(seed) for seed in range(3)}) == 3


# Shares of the gradient


def gradient_shares(scheduler, steps: int, tasks: int = 3) -> list[float]:
    """Each task's share of the weights of all visits: what it has of the sum of gradients of equal length."""
    totals = [0.0] * tasks
    for step in range(steps):
        for visit in scheduler.visits(Position(step, steps, steps)):
            totals[visit.task] += visit.weight
    return [total / sum(totals) for total in totals]


UNEQUAL = replace(
    RUN,
    tasks=tuple(
        replace(task, rows=rows, batches=-(-rows // 16))
        for task, rows in zip(RUN.tasks, (8_544, 283_003, 6_040), strict=True)
    ),
)


@pytest.mark.parametrize("micro_batches", [1, 2, 8, 16])
@pytest.mark.parametrize("make", [Proportional, Temperature, Annealed, Shuffled, LinearTemperature, Similarity])
def test_shares_of_the_gradient_are_the_shares_drawn_whatever_the_micro_batches(make, micro_batches):
    scheduler = make(replace(UNEQUAL, micro_batches=micro_batches))
    steps = 3_200 // micro_batches
    drawn = [count / 3_200 for count in count_visits(scheduler, 3, steps, steps)]
    assert gradient_shares(scheduler, steps) == pytest.approx(drawn)
    if make is Proportional:
        assert drawn == pytest.approx([0.029, 0.951, 0.020], abs=0.012)


@pytest.mark.parametrize("order", ["random", "interleaved"])
def test_a_fixed_ratio_is_that_of_the_gradient(order):
    run = replace(RUN, micro_batches=8)
    shares = gradient_shares(FixedRatio(run, ratio={"a": 1, "b": 14, "c": 1}, order=order), 2000)
    assert shares == pytest.approx([1 / 16, 14 / 16, 1 / 16], abs=0.01)


def test_the_weights_of_a_step_of_draws_sum_to_one():
    assert draws([2, 1, 2, 2]) == [Visit(1, 1, 0.25), Visit(2, 3, 0.75)]
    assert draws([1]) == [Visit(1, 1, 1.0)] == [Visit(1)]


def test_annealing_reaches_its_last_exponent_at_the_last_step(monkeypatch):
    probabilities = []
    monkeypatch.setattr("mtlcli.schedulers.annealed.draw", lambda run, p, position: probabilities.append(p) or [])
    for step in range(3):
        Annealed(RUN, decay=0.8).visits(Position(step, 3, 3))
    for found, exponent in zip(probabilities, (1.0, 0.6, 0.2), strict=True):
        torch.testing.assert_close(found, power_of_sizes(RUN, exponent))


# Lengths

STEPS = {  # of an epoch, with batches 10, 30, 5 and four micro-batches a step
    "all-together": 2,  # 5 / 4
    "annealed": 11,  # 30 / (300 / 450 * 4) = 11.25, as proportional
    "bandit": 22,  # 30 / (4 / 3) = 22.5
    "curriculum": 8,  # 30 / 4
    "entropy": 8,
    "fixed-ratio": 22,
    "linear-temperature": 11,
    "proportional": 11,
    "round-robin": 8,
    "shuffled": 12,  # 45 / 4
    "similarity": 54,  # shares 10, 1.732, .707: 30 / (1.732 / 12.439 * 4)
    "stages": 8,
    "state-machine": 8,
    "temperature": 15,  # shares 10, 17.32, 7.07: 30 / (17.32 / 34.39 * 4)
    "worst-task": 22,
}


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_steps_of_an_epoch_by_hand(name):
    options = {"fixed-ratio": {"ratio": {}}, "stages": {"stages": [{}]}}.get(name, {})
    choice = SchedulerChoice.model_validate({"name": name, **options})
    assert choice.check("scheduler") == []
    assert choice.make(replace(RUN, micro_batches=4)).steps_per_epoch() == STEPS[name]
    assert choice.make(replace(RUN, micro_batches=1000)).steps_per_epoch() == 1


def test_every_scheduler_has_its_steps_worked_out():
    assert set(STEPS) == {entry.name for entry in registry.built_in("schedulers")}


@pytest.mark.parametrize(
    ("tasks_per_step", "expected"), [("one", (1, 1)), ("draws", (1, 2)), ("several", (1, 3)), ("all", (3, 3))]
)
def test_the_fewest_and_the_most_of_three_tasks_in_two_micro_batches(tasks_per_step, expected):
    assert fewest_and_most(tasks_per_step, 3, 2) == expected
