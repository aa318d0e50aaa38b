"""Schedulers that hear result: bandit, worst task, entropy sampling, state machine, curriculum."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

import toy
from mtlcli.errors import MtlError
from mtlcli.plugin import EvaluationResult, ProbeResult, StepResult
from mtlcli.schedulers.bandit import Bandit
from mtlcli.schedulers.base import Candidates, Position, Probe, Stage, Visit
from mtlcli.schedulers.curriculum import Curriculum
from mtlcli.schedulers.entropy import Entropy
from mtlcli.schedulers.state_machine import StateMachine
from mtlcli.schedulers.worst_task import WorstTask
from mtlcli.tasks.targets import Classes, Ragged

RUN = toy.facts(3)  # rows 100, 300, 50; batches 10, 30, 5; b predicts a score, a and c one of three classes


def at(step: int, total: int = 100) -> Position:
    return Position(step, total, 10)


def task_at(scheduler, step: int) -> int:
    (visit,) = scheduler.visits(at(step))
    return visit.task


def evaluate(scheduler, *losses: float | None) -> None:
    found = {task: loss for task, loss in enumerate(losses) if loss is not None}
    scheduler.on_evaluation(EvaluationResult(0, found, {task: {} for task in found}))


# Bandit


def test_only_the_pulled_arm_moves_to_half_the_negative_loss():
    bandit = Bandit(RUN, primary="b")
    assert task_at(bandit, 0) == 1
    bandit.on_probe(ProbeResult(10, {1: 2.0}))
    # R = -2 / 2 = -1; Q = -.5 + .3 (-1 + .5) = -.65
    assert bandit.values.tolist() == pytest.approx([-0.5, -0.65, -0.5])


def test_values_are_the_surveys_sum_over_the_pulls_of_an_arm():
    bandit = Bandit(toy.facts(1), rate=0.3)
    for step, loss in enumerate((2.0, 1.0, 0.6)):
        bandit.on_probe(ProbeResult(step, {0: loss}))
    # (1 - a)^3 Q_0 + sum_k a (1 - a)^(3 - k) R_k with R = -1, -.5, -.3
    assert float(bandit.values[0]) == pytest.approx(0.343 * -0.5 + 0.3 * (0.49 * -1.0 + 0.7 * -0.5 - 0.3))


def test_the_bandit_asks_for_two_dev_batches_of_the_primary_every_ten_steps():
    bandit = Bandit(RUN)
    asked = {step: bandit.probe(at(step)) for step in range(30)}
    assert {step for step, probe in asked.items() if probe} == {9, 19, 29}
    assert asked[9] == Probe((0,), 2)
    assert Bandit(toy.facts(1)).probe(at(9)) is None  # nothing to choose


def test_arms_are_drawn_with_the_exponentials_of_their_values():
    counts = Counter()
    for seed in range(2000):
        bandit = Bandit(replace(RUN, seed=seed), rate=1.0, initial_value=0.0)
        bandit.on_probe(ProbeResult(10, {0: 2 * math.log(2.0)}))  # Q = -log 2, 0, 0: shares 1/2 : 1 : 1
        counts[task_at(bandit, 10)] += 1
    assert [counts[task] / 2000 for task in range(3)] == pytest.approx([0.2, 0.4, 0.4], abs=0.04)


def test_a_cold_bandit_takes_the_best_arm():
    bandit = Bandit(RUN, temperature=1e-6)
    bandit.on_probe(ProbeResult(10, {0: 0.2}))  # Q_0 = -.38: the best of all, for good
    for pull in range(20):
        assert task_at(bandit, pull) == 0
        bandit.on_probe(ProbeResult(10, {0: 0.2}))


def test_a_reward_that_is_not_finite_moves_nothing():
    bandit = Bandit(RUN)
    bandit.on_probe(ProbeResult(10, {0: math.nan}))
    assert bandit.values.tolist() == [-0.5] * 3
    assert int(bandit.pulls) == 1


def test_a_bandit_without_dev_rows_of_its_primary_says_so():
    run = replace(RUN, tasks=(*RUN.tasks[:2], replace(RUN.tasks[2], dev_rows=0)))
    with pytest.raises(MtlError, match="c has no dev rows, which the bandit's reward requires"):
        Bandit(run, primary="c")
    assert Bandit(run, primary="b").primary == 1


@pytest.mark.parametrize("make", [lambda: Bandit(RUN, primary="d"), lambda: Curriculum(RUN, order=["d"])])
def test_an_unknown_task_is_refused(make):
    with pytest.raises(MtlError, match='no task "d"; there are: a, b, c'):
        make()


# Worst task


def test_tasks_take_turns_until_they_are_measured():
    assert [task_at(WorstTask(RUN), step) for step in range(5)] == [0, 1, 2, 0, 1]


def test_the_worst_is_the_one_that_fell_least_since_its_first_evaluation():
    scheduler = WorstTask(RUN)
    evaluate(scheduler, 2.0, 0.5, 1.0)
    assert [task_at(scheduler, step) for step in range(5)] == [0, 1, 2, 0, 1]  # all stand at 1
    evaluate(scheduler, 1.0, 0.45, 0.8)  # 0.5, 0.9, 0.8
    assert {task_at(scheduler, step) for step in range(9)} == {1}
    evaluate(scheduler, 1.0, 0.3, 0.8)  # 0.5, 0.6, 0.8
    assert {task_at(scheduler, step) for step in range(9)} == {2}


def test_the_worst_relative_to_chance_or_to_nothing():
    by_chance, raw = WorstTask(RUN, relative="chance"), WorstTask(RUN, relative="none")
    for scheduler in (by_chance, raw):
        evaluate(scheduler, 1.05, 1.02, 0.9)  # log 3 = 1.0986: 0.956, 1.02 of a score's 1, 0.819
    assert {task_at(by_chance, step) for step in range(9)} == {1}
    assert {task_at(raw, step) for step in range(9)} == {0}


def test_a_task_without_any_loss_on_dev_is_measured_and_never_the_worst():
    scheduler = WorstTask(RUN)
    evaluate(scheduler, 0.0, 0.5, 0.5)
    evaluate(scheduler, 0.0, 0.4, 0.3)  # 0, .8, .6 of the first losses
    assert {task_at(scheduler, step) for step in range(9)} == {1}


def test_a_task_without_dev_rows_keeps_its_turn():
    scheduler = WorstTask(RUN)
    evaluate(scheduler, 2.0, 1.0, None)
    evaluate(scheduler, 1.0, 0.9, math.nan)
    assert [task_at(scheduler, step) for step in range(6)] == [1, 1, 2, 1, 1, 2]


# Entropy sampling


def binary(*first: float) -> torch.Tensor:
    """Probabilities (n, 2); the nearer the first is to a half, the higher the entropy."""
    column = torch.tensor(first)
    return torch.stack([column, 1 - column], dim=1)


def unsure(probabilities: torch.Tensor | None) -> torch.Tensor | None:
    """Return what classes say of their predictions; scores say nothing."""
    if probabilities is None:
        return None
    return Classes.named(*map(str, range(probabilities.shape[1]))).uncertainty(Ragged({"probabilities": probabilities}))


def chosen(scheduler, *probabilities: torch.Tensor | None, count: int = 4) -> list[list[int]]:
    pool = [Candidates(task, count if p is None else len(p), unsure(p)) for task, p in enumerate(probabilities)]
    return [rows.tolist() for rows in scheduler.choose(pool, at(3))]


def test_the_most_uncertain_rows_of_all_tasks_are_kept_in_their_order():
    # 8 candidates of two tasks: 4 are kept, those nearest to a half: .5, .55 of the first, .6, .45 of the second
    found = chosen(Entropy(RUN), binary(0.5, 0.99, 0.55, 0.9), binary(0.98, 0.6, 0.1, 0.45))
    assert found == [[0, 2], [1, 3]]


def test_entropies_are_measured_against_those_of_a_uniform_guess():
    # (.6, .4): entropy .673, of log 2 .971. (.5, .3, .2): 1.030, of log 3 .937: larger, but less uncertain
    three = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    assert chosen(Entropy(RUN), binary(0.6, 0.62), three) == [[0, 1], []]


def test_the_code_damps_tasks_that_the_model_is_sure_of():
    # normalised entropies: first .469 .469 1, mean .646; second .722 three times, mean .722, the largest.
    # paper: 1, .722, .722 are kept. Code: the first task's 1 becomes .646 / .722 = .895, still kept; its .469 .42
    sure, unsure = binary(0.1, 0.1, 0.5), binary(0.2, 0.2, 0.2)
    assert chosen(Entropy(RUN, form="code"), sure, unsure) == chosen(Entropy(RUN), sure, unsure) == [[2], [0, 1]]
    # now .081 .081 .971, mean .378; .881 three times: .971 is the first for the paper, .971 * .378 / .881 = .416 not for the code
    sure, unsure = binary(0.01, 0.01, 0.4), binary(0.3, 0.3, 0.3)
    assert chosen(Entropy(RUN), sure, unsure) == [[2], [0, 1]]
    assert chosen(Entropy(RUN, form="code"), sure, unsure) == [[], [0, 1, 2]]


def test_a_score_task_keeps_its_share_at_random():
    found = chosen(Entropy(RUN), binary(0.5, 0.9, 0.9, 0.5), None, binary(0.9, 0.5, 0.9, 0.9))
    # 4 of 12 rows: round(4 / 3) = 1 of the scores, 3 of the classes
    assert found[0] == [0, 3] and found[2] == [1]
    assert len(found[1]) == 1
    drawn = set()
    for step in range(60):
        rows = Entropy(RUN).choose(
            [Candidates(0, 4, unsure(binary(0.5, 0.9, 0.9, 0.5))), Candidates(1, 4, None)], at(step)
        )
        drawn.add(tuple(rows[1].tolist()))
    assert drawn == {(i, j) for i in range(4) for j in range(i + 1, 4)}  # 2 of 4: every pair comes up


def test_scores_alone_share_the_batch_equally():
    found = chosen(Entropy(RUN), None, None, count=6)
    assert [len(rows) for rows in found] == [3, 3]


def test_every_score_task_keeps_a_row_of_a_batch_that_is_smaller_than_the_number_of_tasks():
    found = chosen(Entropy(RUN), None, binary(0.5), None, count=1)  # a batch of one row for three tasks
    assert found == [[0], [0], [0]]


def test_one_task_alone_keeps_its_whole_batch_in_order():
    assert chosen(Entropy(toy.facts(1)), binary(0.9, 0.5, 0.7)) == [[0, 1, 2]]
    assert chosen(Entropy(toy.facts(1)), None) == [[0, 1, 2, 3]]


def test_a_model_that_is_sure_of_everything_still_trains():
    assert sum(map(len, chosen(Entropy(RUN, form="code"), binary(1.0, 0.0), binary(1.0, 1.0)))) == 2


def test_every_task_has_its_batches_among_the_candidates():
    scheduler = Entropy(replace(RUN, micro_batches=2))
    assert scheduler.visits(at(0)) == [Visit(0, 2), Visit(1, 2), Visit(2, 2)]
    assert scheduler.steps_per_epoch() == 15


# State machine


def test_a_rising_loss_switches_to_the_next_task_and_halves_the_rate():
    machine = StateMachine(RUN)
    evaluate(machine, 1.0, 1.0, 1.0)
    evaluate(machine, 0.8, 1.5, 1.0)  # b rises, but a has its turn
    assert (task_at(machine, 0), machine.stage(at(0))) == (0, Stage(0, 100))
    evaluate(machine, 0.9, 1.5, 1.0)
    assert (task_at(machine, 0), machine.stage(at(0))) == (1, Stage(0, 100, lr=0.5))
    evaluate(machine, 0.9, 1.4, 1.0)
    assert task_at(machine, 0) == 1
    for loss in (1.6, 1.1, 1.2, 1.3):  # b rises from 1.4; c falls to 1.1 and rises to 1.2; a rises from that to 1.3
        evaluate(machine, loss, loss, loss)
    assert (task_at(machine, 0), float(machine.lr)) == (1, 0.5**4)


def test_the_rate_has_a_floor():
    machine = StateMachine(toy.facts(1), minimum=0.3)
    for loss in (1.0, 2.0, 3.0, 4.0):
        evaluate(machine, loss)
    assert machine.stage(at(0)).lr == 0.3


def test_with_one_task_and_patience_the_rate_is_halved_after_three_rises_in_a_row():
    machine = StateMachine(toy.facts(1), patience=3)
    rates = []
    for loss in (1.0, 1.1, 1.2, 1.1, 1.2, 1.3, 1.4, 1.5):
        evaluate(machine, loss)
        rates.append(machine.stage(at(0)).lr)
    assert rates == [1, 1, 1, 1, 1, 1, 0.5, 0.5]
    assert task_at(machine, 0) == 0


def test_a_small_rise_may_be_tolerated():
    machine = StateMachine(RUN, tolerance=0.2)
    evaluate(machine, 1.0, 1.0, 1.0)
    evaluate(machine, 1.1, 1.0, 1.0)
    assert task_at(machine, 0) == 0
    evaluate(machine, 1.4, 1.0, 1.0)
    assert task_at(machine, 0) == 1


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_task_without_dev_rows_has_one_turn_and_leaves_the_rate(nothing):
    machine = StateMachine(RUN)
    evaluate(machine, nothing, 1.0, 1.0)
    assert (task_at(machine, 0), float(machine.lr)) == (1, 1.0)


# Curriculum


def parts(scheduler, total: int) -> list[tuple[int, ...]]:
    """Tasks of the steps of a run, one entry for each change."""
    found = [tuple(visit.task for visit in scheduler.visits(at(step, total))) for step in range(total)]
    return [one for index, one in enumerate(found) if index == 0 or found[index - 1] != one]


def lengths(scheduler, total: int) -> list[int]:
    found = Counter(tuple(visit.task for visit in scheduler.visits(at(step, total))) for step in range(total))
    return list(found.values())


def test_tasks_come_in_one_after_the_other_and_stay():
    scheduler = Curriculum(RUN, order=["c", "a", "b"])
    assert parts(scheduler, 30) == [(2,), (0, 2), (0, 1, 2)]
    assert lengths(scheduler, 30) == [10, 10, 10]


def test_tasks_one_by_one_and_all_of_them_at_last():
    scheduler = Curriculum(RUN, order=["c", "a", "b"], cumulative=False)
    assert parts(scheduler, 40) == [(2,), (0,), (1,), (0, 1, 2)]
    assert lengths(scheduler, 40) == [10, 10, 10, 10]


def test_parts_may_have_lengths_of_their_own_or_none():
    scheduler = Curriculum(RUN, order=["c", "a", "b"], cumulative=False, shares=[1, 2, 1, 0])
    assert parts(scheduler, 40) == [(2,), (0,), (1,)]
    assert lengths(scheduler, 40) == [10, 20, 10]


def test_tasks_left_out_of_the_order_come_last():
    assert Curriculum(RUN, order=["c"]).order() == Curriculum(RUN, order="c").order() == [2, 0, 1]


def test_difficulty_is_the_training_loss_in_the_second_half_of_the_first_part_over_chance():
    scheduler = Curriculum(RUN, measure_share=0.2)
    measured = {1: (9.0, 0.1, 9.0), 5: (0.9, 0.9, 0.3), 6: (0.7, 1.1, 0.3), 7: (9.0, 0.1, 9.0)}
    assert [visit.task for visit in scheduler.visits(at(5, 30))] == [0, 1, 2]  # 6 of 30 steps measure, 4 to 6 count
    for step, losses in measured.items():
        scheduler.visits(at(step - 1, 30))
        scheduler.on_step(StepResult(step, torch.tensor([0, 1, 2]), torch.tensor(losses), torch.ones(3)))
    # means .8, 1.0, .3 by chance of log 3, 1, log 3: .73, 1, .27
    assert scheduler.order() == [2, 0, 1]
    assert parts(scheduler, 30) == [(0, 1, 2), (2,), (0, 2), (0, 1, 2)]
    assert lengths(scheduler, 30) == [6 + 8, 8, 8]  # all tasks at first and at last


def test_losses_up_to_the_middle_of_the_first_part_say_nothing_about_difficulty():
    scheduler = Curriculum(RUN, measure_share=0.2)
    scheduler.visits(at(0, 30))  # 6 of 30 steps measure: after steps 1 to 3 nothing is kept, after 4 to 6 everything
    tasks = torch.tensor([0, 1, 2])
    for step, losses in enumerate(((9.0, 8.0, 7.0),) * 3 + ((0.1, 0.2, 0.3),) * 3 + ((7.0, 8.0, 9.0),), start=1):
        scheduler.on_step(StepResult(step, tasks, torch.tensor(losses), torch.ones(3)))
    assert scheduler.sums.tolist() == pytest.approx([0.3, 0.6, 0.9])
    assert scheduler.counts.tolist() == [3, 3, 3]


def test_difficulty_is_a_mean_however_often_a_task_was_measured():
    scheduler = Curriculum(RUN, measure_share=0.2)
    scheduler.visits(at(0, 30))
    for step, tasks, losses in ((4, [0, 1], [0.6, 0.9]), (5, [0], [0.6]), (6, [0], [0.6])):
        scheduler.on_step(StepResult(step, torch.tensor(tasks), torch.tensor(losses), torch.ones(len(tasks))))
    # .6 / log 3 of a, thrice; .9 of b, once; c was never measured
    assert scheduler.order() == [0, 1, 2]
    scheduler.on_step(StepResult(6, torch.tensor([2]), torch.tensor([0.5]), torch.ones(1)))
    assert scheduler.order() == [2, 0, 1]


def test_an_unmeasured_curriculum_is_in_the_order_of_the_run():
    assert Curriculum(RUN).order() == [0, 1, 2]
    assert parts(Curriculum(RUN), 100) == [(0, 1, 2), (0,), (0, 1), (0, 1, 2)]


def test_a_very_short_run_still_visits_tasks():
    for total in (1, 2, 3):
        assert all(Curriculum(RUN, cumulative=False).visits(at(step, total)) for step in range(total))


def test_wrong_orders_and_shares_are_refused():
    with pytest.raises(MtlError, match=r"scheduler\.order: a is listed twice"):
        Curriculum(RUN, order=["a", "b", "a"])
    with pytest.raises(MtlError, match=r"scheduler\.shares: found \[1.0\]; expected 3 numbers"):
        Curriculum(RUN, shares=[1.0])
    with pytest.raises(MtlError, match="expected 4 numbers, not all 0"):
        Curriculum(RUN, cumulative=False, shares=[0.0] * 4)


def test_an_equal_loss_is_no_rise():
    machine = StateMachine(RUN)
    for step in (10, 20):
        machine.on_evaluation(EvaluationResult(step, {0: 1.0, 1: 1.0, 2: 1.0}, {}))
    assert machine.visits(at(0)) == [Visit(0, 1)]
    assert float(machine.lr) == 1.0


def test_a_curriculum_orders_by_loss_over_chance_and_not_by_loss():
    # a has three classes: 1.05 / log 3 = .956; b is a score: 1.0 / 1; so a is easier though its loss is larger.
    scheduler = Curriculum(RUN, measure_share=0.5)
    scheduler.visits(Position(0, 4, 4))
    scheduler.on_step(StepResult(2, torch.tensor([0, 1, 2]), torch.tensor([1.05, 1.0, 1.08]), torch.ones(3)))
    assert scheduler.order() == [0, 2, 1]
