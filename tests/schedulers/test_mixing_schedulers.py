"""Schedulers whose mix is known before step 1: all together, shuffled, linear temperature, fixed ratio, similarity."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import toy
from mtlcli.errors import MtlError
from mtlcli.schedulers.all_together import AllTogether
from mtlcli.schedulers.base import Position, Visit
from mtlcli.schedulers.fixed_ratio import FixedRatio
from mtlcli.schedulers.linear_temperature import LinearTemperature
from mtlcli.schedulers.proportional import Proportional
from mtlcli.schedulers.round_robin import RoundRobin
from mtlcli.schedulers.shuffled import Shuffled
from mtlcli.schedulers.similarity import Similarity
from small import count_visits

RUN = toy.facts(3)  # rows 100, 300, 50; batches 10, 30, 5


def sequence(scheduler, steps: int) -> list[int]:
    return [scheduler.visits(Position(step, steps, steps))[0].task for step in range(steps)]


# All together


def test_all_together_ends_every_pass_at_the_same_step():
    scheduler = AllTogether(RUN)
    # the smallest task has 5 batches, so 5 steps; in each 10 / 5 = 2, 30 / 5 = 6 and 1 of them
    assert scheduler.steps_per_epoch() == 5
    assert scheduler.visits(Position(3, 10, 5)) == [Visit(0, 2), Visit(1, 6), Visit(2, 1)]
    assert count_visits(scheduler, 3, 10, 5) == [20, 60, 10]


def test_all_together_spreads_batches_that_do_not_divide():
    run = replace(RUN, tasks=(replace(RUN.tasks[0], batches=3), replace(RUN.tasks[1], batches=7)))
    scheduler = AllTogether(run)
    # 7 batches in 3 steps: floor(7/3) = 2, floor(14/3) = 4, floor(21/3) = 7, so 2, 2 and 3 of them
    found = [scheduler.visits(Position(step, 3, 3))[1].micro_batches for step in range(3)]
    assert found == [2, 2, 3]


def test_all_together_gives_the_smallest_task_its_micro_batches():
    # 5 batches at 2 a step are 3 steps: 1, 2 and 2 of them
    scheduler = AllTogether(replace(RUN, micro_batches=2))
    found = [[visit.micro_batches for visit in scheduler.visits(Position(step, 3, 3))] for step in range(3)]
    assert found == [[3, 10, 1], [3, 10, 2], [4, 10, 2]]


def test_all_together_with_a_limit_repeats_the_small_tasks():
    scheduler = AllTogether(RUN, max_micro_batches=2)
    # 30 batches at 2 a step are 15 steps; 10 and 5 batches do not reach, so one in each step all the same
    assert scheduler.steps_per_epoch() == 15
    assert count_visits(scheduler, 3, 15, 15) == [15, 30, 15]


def test_all_together_with_one_micro_batch_is_round_robin():
    one, other = AllTogether(RUN, max_micro_batches=1), RoundRobin(RUN)
    assert one.steps_per_epoch() == other.steps_per_epoch()
    positions = [Position(step, 60, 30) for step in range(60)]
    assert [one.visits(at) for at in positions] == [other.visits(at) for at in positions]


# Shuffled


def test_a_shuffled_pass_holds_every_task_as_often_as_it_has_batches():
    scheduler = Shuffled(RUN)
    assert scheduler.steps_per_epoch() == 45
    for start in (0, 45, 90):
        found = Counter(scheduler.visits(Position(step, 135, 45))[0].task for step in range(start, start + 45))
        assert found == {0: 10, 1: 30, 2: 5}


def test_a_shuffled_run_resumes_in_any_pass():
    whole = sequence(Shuffled(RUN), 135)
    for step in (0, 45, 50, 90, 134):
        resumed = Shuffled(RUN)
        rest = [resumed.visits(Position(later, 135, 45))[0].task for later in range(step, 135)]
        assert rest == whole[step:]


def test_two_shuffled_passes_have_different_orders():
    found = sequence(Shuffled(RUN), 90)
    assert found[:45] != found[45:]
    assert found[:45] != sorted(found[:45])


def test_shuffled_steps_of_several_micro_batches_go_on_through_the_order():
    single, fours = Shuffled(RUN), Shuffled(replace(RUN, micro_batches=4))
    assert fours.steps_per_epoch() == 12  # 45 / 4, rounded up; the last step goes 3 batches into the next pass
    order = sequence(single, 90)
    for step in range(12):
        found = {visit.task: visit.micro_batches for visit in fours.visits(Position(step, 12, 12))}
        assert found == Counter(order[4 * step : 4 * step + 4])


def test_another_seed_shuffles_otherwise():
    assert sequence(Shuffled(RUN), 45) != sequence(Shuffled(replace(RUN, seed=2)), 45)


# Linear temperature


def test_linear_temperature_rises_from_one_to_five_in_five_epochs():
    scheduler = LinearTemperature(RUN)
    # half an epoch: 1 + 0.1 * 4; two and a half: 1 + 0.5 * 4; from five on: 5
    steps = {0: 1.0, 5: 1.4, 25: 3.0, 50: 5.0, 80: 5.0}
    for step, temperature in steps.items():
        assert scheduler.temperature(Position(step, 100, 10)) == pytest.approx(temperature)


def test_linear_temperature_starts_as_proportional_sampling_and_ends_at_the_fifth_root():
    rising = LinearTemperature(RUN, warmup_epochs=1)
    assert rising.visits(Position(0, 450, 45)) == Proportional(RUN).visits(Position(0, 450, 45))
    assert rising.steps_per_epoch() == Proportional(RUN).steps_per_epoch()
    roots = torch.tensor([100.0, 300.0, 50.0]) ** 0.2
    counts = count_visits(LinearTemperature(RUN, warmup_epochs=1e-9), 3, 6000, 45)
    assert [count / 6000 for count in counts] == pytest.approx((roots / roots.sum()).tolist(), abs=0.02)


def test_linear_temperature_may_fall():
    assert LinearTemperature(RUN, initial=4.0, final=2.0, warmup_epochs=2).temperature(Position(10, 30, 10)) == 3.0


# Fixed ratio


def test_a_fixed_ratio_is_drawn_whatever_the_sizes():
    scheduler = FixedRatio(RUN, ratio={"a": 2.0, "b": 5.0, "c": 3.0})
    counts = count_visits(scheduler, 3, 6000, 60)
    assert [count / 6000 for count in counts] == pytest.approx([0.2, 0.5, 0.3], abs=0.02)
    assert scheduler.steps_per_epoch() == 60  # 30 batches of b, which has half of the steps


def test_a_task_without_ratio_has_one_and_a_ratio_of_nothing_is_never_visited():
    assert FixedRatio(RUN, ratio={"b": 2.0}).probabilities.tolist() == [0.25, 0.5, 0.25]
    scheduler = FixedRatio(RUN, ratio={"b": 0.0})
    assert count_visits(scheduler, 3, 200, 20)[1] == 0
    assert scheduler.steps_per_epoch() == 20  # a is now the largest: 10 batches, half of the steps


def test_an_interleaved_ratio_is_worked_out_by_hand():
    # due at (j + 1/2) / r: a at .5, b at 1/6, 3/6, 5/6, c at .5; equal ones in the order of the run
    scheduler = FixedRatio(RUN, ratio={"b": 3.0}, order="interleaved")
    assert sequence(scheduler, 10) == [1, 0, 1, 2, 1] * 2


def test_an_interleaved_step_of_one_whole_round_is_the_ratio():
    scheduler = FixedRatio(replace(RUN, micro_batches=6), ratio={"a": 1, "b": 3, "c": 2}, order="interleaved")
    for step in (7, 0, 3):
        assert scheduler.visits(Position(step, 8, 8)) == [Visit(0, 1, 1 / 6), Visit(1, 3, 3 / 6), Visit(2, 2, 2 / 6)]


def test_wrong_ratios_are_refused():
    with pytest.raises(MtlError, match=r'scheduler\.ratio: no task "d"; there are: a, b, c'):
        FixedRatio(RUN, ratio={"d": 1.0})
    with pytest.raises(MtlError, match="found 0 for every task"):
        FixedRatio(RUN, ratio={"a": 0.0, "b": 0.0, "c": 0.0})


# Similarity


def test_similarity_multiplies_likeness_and_the_root_of_the_rows():
    scheduler = Similarity(RUN, primary="c", same_task=["a"], same_language=["b"])
    # c is the primary: 50^.5 = 7.071. a: its kind, another language: .1 * 10 = 1. b: .1 * 300^.5 = 1.732
    expected = [1.0 / 9.803, 1.732 / 9.803, 7.071 / 9.803]
    assert scheduler.probabilities.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_task_of_another_kind_and_language_counts_a_hundredth():
    scheduler = Similarity(RUN, same_language=[])
    # 10, .01 * 17.32 and .01 * 7.071
    expected = [10.0 / 10.2439, 0.1732 / 10.2439, 0.0707 / 10.2439]
    assert scheduler.probabilities.tolist() == pytest.approx(expected, abs=1e-4)


def test_similarity_where_all_are_alike_is_temperature_two():
    roots = torch.tensor([100.0, 300.0, 50.0]).double().sqrt()
    alike = Similarity(RUN, same_task=["b", "c"])
    torch.testing.assert_close(alike.probabilities, roots / roots.sum())
    torch.testing.assert_close(Similarity(RUN, unlike=1.0).probabilities, alike.probabilities)


@pytest.mark.parametrize("option", ["primary", "same_task", "same_language"])
def test_similarity_to_an_unknown_task_is_refused(option):
    value = "toni" if option == "primary" else ["toni"]
    tasks = (replace(RUN.tasks[0], name="tone"), *RUN.tasks[1:])
    with pytest.raises(MtlError, match=rf'scheduler\.{option}: no task "toni"; did you mean "tone"\?'):
        Similarity(replace(RUN, tasks=tasks), **{option: value})


ALL = [AllTogether, Shuffled, LinearTemperature, Similarity]


@pytest.mark.parametrize("make", [*ALL, lambda run: FixedRatio(run, ratio={}, order="interleaved")])
def test_one_task_alone_has_every_micro_batch(make):
    run = replace(toy.facts(1), micro_batches=2)
    scheduler = make(run)
    assert scheduler.steps_per_epoch() == 5
    assert [scheduler.visits(Position(step, 5, 5)) for step in range(5)] == [[Visit(0, 2)]] * 5
