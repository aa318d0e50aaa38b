"""The contract of schedulers."""

import math
from dataclasses import replace
from typing import get_args

import torch

from mtlcli.facts import RunFacts
from mtlcli.heads.outputs import output_for
from mtlcli.plugin import ProbeResult
from mtlcli.schedulers.base import Candidates, Position, Scheduler, Stage, TasksPerStep, Visit, fewest_and_most
from mtlcli.testing.common import (
    ALONE,
    RUN,
    call_hooks,
    checked_options,
    expect,
    listed,
    own_randomness,
    saved_and_loaded,
)


def check_scheduler(plugin: type[Scheduler], **options: object) -> None:
    """Check the steps of several epochs of a scheduler, with one and four micro-batches, for one task and three tasks.

    - a step visits one or more tasks of the run, each once, with one micro-batch or more;
    - it visits as many tasks as `tasks_per_step` declares; a scheduler that draws distributes all micro-batches and weights each
      visit by its share of them;
    - visits depend on position and state alone: repeated calls, another order of calls, and a copy return the same;
    - `steps_per_epoch` is 1 or more, and the ends of the epochs rise;
    - every step lies in its stage, whose learning rate is positive;
    - a scheduler that chooses rows keeps one or more rows of its candidates, each once.
    """
    checked = checked_options(plugin, Scheduler, 1, options)
    name = plugin.__name__
    for run in (RUN, replace(RUN, micro_batches=4), ALONE, replace(ALONE, micro_batches=4)):

        def make(run: RunFacts = run) -> Scheduler:
            return plugin(run, **checked)

        with own_randomness(name):
            scheduler = make()
            promise = scheduler.tasks_per_step
            expect(
                promise in get_args(TasksPerStep),
                f"{name}.tasks_per_step: expected one of {listed(get_args(TasksPerStep))}; found {promise!r}",
            )
            length = scheduler.steps_per_epoch()
            expect(
                isinstance(length, int) and length >= 1,
                f"{name}.steps_per_epoch: expected a whole number from 1, found {length!r}",
            )
            # Three epochs, so that a schedule by epoch has changed at the last step.
            ends = scheduler.epoch_ends(3, None, length)
            expect(
                ends and ends == sorted(set(ends)) and ends[0] >= 1,
                f"{name}.epoch_ends: expected rising numbers from 1, found {ends}",
            )
            # The last step too: rounding errors of a schedule show at its end.
            positions = [Position(step, ends[-1], length) for step in sorted({*range(min(40, ends[-1])), ends[-1] - 1})]
            planned = [scheduler.visits(position) for position in positions]
            for position, visits in zip(positions, planned, strict=True):
                _check_visits(name, visits, run, promise, position)
                _check_stage(name, scheduler.stage(position), position)
                if scheduler.chooses_rows:
                    _check_choice(scheduler, visits, position)
            _same_plan(name, planned, [scheduler.visits(position) for position in positions], "in a second call")
            # The plan calls `visits` for all steps before training does, and a resumed run starts in the middle.
            other = make()
            backwards = [other.visits(position) for position in reversed(positions)]
            _same_plan(name, planned, backwards[::-1], "from a new instance called in another order")
            tasks = [[visit.task for visit in visits] for visits in planned]
            call_hooks(scheduler, run, tasks, gram=False)
            _probe(scheduler, positions)
            copy = saved_and_loaded(scheduler, make)
            after = [scheduler.visits(position) for position in positions]
            for position, visits in zip(positions, after, strict=True):
                _check_visits(name, visits, run, promise, position)
            _same_plan(
                name, after, [copy.visits(position) for position in positions], "from a copy with the same state"
            )


def _check_visits(name: str, visits: list[Visit], run: RunFacts, promise: TasksPerStep, position: Position) -> None:
    tasks, where = [visit.task for visit in visits], f"at step {position.step} with {run.micro_batches} micro-batches"
    expect(
        all(0 <= task < len(run.tasks) for task in tasks) and len(set(tasks)) == len(tasks),
        f"{name}: expected different tasks out of 0 to {len(run.tasks) - 1} {where}, found {tasks}",
    )
    counts = [visit.micro_batches for visit in visits]
    expect(min(counts, default=0) >= 1, f"{name}: expected visits of one micro-batch or more {where}, found {visits}")
    fewest, most = fewest_and_most(promise, len(run.tasks), run.micro_batches)
    expect(
        fewest <= len(tasks) <= most,
        f'{name}: tasks_per_step "{promise}" promises {fewest} to {most} of {len(run.tasks)} tasks {where}, found {tasks}',
    )
    weights = [visit.weight for visit in visits]
    expect(
        all(math.isfinite(weight) and weight > 0 for weight in weights),
        f"{name}: expected visits with a positive weight {where}, found {weights}",
    )
    if promise == "draws":
        expect(
            sum(counts) == run.micro_batches, f"{name}: expected {run.micro_batches} draws in a step, found {counts}"
        )
        shares = [count / run.micro_batches for count in counts]
        expect(
            all(math.isclose(weight, share) for weight, share in zip(weights, shares, strict=True)),
            f"{name}: expected visits weighted by their shares of the draws, {shares} {where}, found {weights}",
        )


def _check_stage(name: str, stage: Stage, position: Position) -> None:
    expect(
        stage.start <= position.step < stage.start + stage.steps and stage.lr > 0,
        f"{name}.stage: expected a stage with a positive rate around step {position.step}, found {stage}",
    )


def _check_choice(scheduler: Scheduler, visits: list[Visit], position: Position) -> None:
    name, pool = type(scheduler).__name__, []
    for visit in visits:
        task = scheduler.run.tasks[visit.task]
        # As if a batch had four rows.
        count = 4 * visit.micro_batches
        random = torch.Generator().manual_seed(position.step)
        output = output_for(task)
        predicted = output.decode(output.shaped(torch.randn(count, task.target.outputs(), generator=random)))
        pool.append(Candidates(visit.task, count, task.target.uncertainty(predicted)))
    choices = scheduler.choose(pool, position)
    expect(len(choices) == len(pool), f"{name}.choose: expected rows for {len(pool)} tasks, found {len(choices)}")
    for candidates, rows in zip(pool, choices, strict=True):
        numbers = rows.tolist()
        expect(
            len(set(numbers)) == len(numbers) and all(0 <= row < candidates.count for row in numbers),
            f"{name}.choose: expected different rows from 0 to {candidates.count - 1}, found {numbers}",
        )
    expect(sum(map(len, choices)) >= 1, f"{name}.choose: expected at least one row, found none")


def _probe(scheduler: Scheduler, positions: list[Position]) -> None:
    for position in positions:
        probe = scheduler.probe(position)
        if probe is not None:
            expect(
                probe.batches >= 1
                and probe.tasks
                and all(0 <= task < len(scheduler.run.tasks) for task in probe.tasks),
                f"{type(scheduler).__name__}.probe: expected tasks of the run and one batch or more, found {probe}",
            )
            scheduler.on_probe(ProbeResult(position.step + 1, {task: 0.5 + 0.1 * task for task in probe.tasks}))


def _same_plan(name: str, expected: list[list[Visit]], actual: list[list[Visit]], when: str) -> None:
    for step, (first, second) in enumerate(zip(expected, actual, strict=True)):
        expect(
            first == second, f"{name}: expected the same visits {when}, found {first} and {second} at position {step}"
        )
