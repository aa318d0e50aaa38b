"""Make the mixing plan: how often a run will train on each task, counted with the run's scheduler."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch

from mtlcli.architectures.base import Architecture
from mtlcli.config.evaluation_sets import in_words
from mtlcli.config.schema import Config
from mtlcli.data.batches import TaskBatches
from mtlcli.data.splits import LoadedTask, overlap
from mtlcli.registry import plugin_call, require
from mtlcli.regularizers.base import Regularizer
from mtlcli.runs.plan import Plan, TaskPlan
from mtlcli.schedulers.base import Position, Scheduler, Stage, Visit, stage_at, visits_at
from mtlcli.training.class_options import class_notes, class_warnings


def visits_by_stage(scheduler: Scheduler, tasks: int, steps: int, steps_per_epoch: int) -> dict[int, list[int]]:
    """Count the micro-batches of each task in each stage, by the stage's first step.

    A scheduler that reacts to results is counted as if there were none yet.
    """
    counts = dict[int, list[int]]()
    for stage, visits in _steps(scheduler, steps, steps_per_epoch):
        of_stage = counts.setdefault(stage.start, [0] * tasks)
        for visit in visits:
            of_stage[visit.task] += visit.micro_batches
    return counts


def passes_of_groups(
    scheduler: Scheduler, groups: Sequence[int | None], steps: int, steps_per_epoch: int
) -> dict[int, tuple[int, int]]:
    """Count the micro-batches of each group of tasks with the same rows, and the passes of the encoder that serve them.

    Args:
        groups: group of each task, None for a task without one.
    """
    cursors = [0] * len(groups)
    counts = {group: (0, 0) for group in groups if group is not None}
    for _, visits in _steps(scheduler, steps, steps_per_epoch) if counts else ():
        rows: dict[int, list[int]] = {}
        for visit in visits:
            start, end = cursors[visit.task], cursors[visit.task] + visit.micro_batches
            cursors[visit.task] = end
            group = groups[visit.task]
            if group is not None:
                rows.setdefault(group, []).extend(range(start, end))
        for group, of_step in rows.items():
            batches, passes = counts[group]
            distinct = len(of_step) if scheduler.chooses_rows else len(set(of_step))
            counts[group] = (batches + len(of_step), passes + distinct)
    return counts


def _steps(scheduler: Scheduler, steps: int, steps_per_epoch: int) -> Iterator[tuple[Stage, list[Visit]]]:
    """Yield the stage and the visits of each step of a run."""
    # On a copy, because counting must not consume the random numbers of the run.
    trial = deepcopy(scheduler)
    for step in range(steps):
        position = Position(step, steps, steps_per_epoch)
        yield stage_at(trial, position), visits_at(trial, position)


def run_lengths(config: Config, scheduler: Scheduler) -> tuple[int, list[int]]:
    """Return the steps of an epoch, and the steps after which each epoch ends."""
    training = config.training
    with plugin_call(scheduler, "steps_per_epoch", "a whole number from 1"):
        steps_per_epoch = training.steps_per_epoch or scheduler.steps_per_epoch()
        require(isinstance(steps_per_epoch, int) and steps_per_epoch >= 1, f"returned {steps_per_epoch!r}")
    with plugin_call(scheduler, "epoch_ends", "rising step numbers from 1"):
        ends = scheduler.epoch_ends(training.epochs or 1, training.steps, steps_per_epoch)
        require(bool(ends) and ends[0] >= 1 and ends == sorted(set(ends)), f"returned {ends!r:.100}")
    return steps_per_epoch, ends


@dataclass(frozen=True)
class TaskInputs:
    """Hold a task's part of the plan: its rows, its batches and the number of trainable parameters that only it uses."""

    loaded: LoadedTask
    batches: TaskBatches
    dev_rows: int
    parameters: int


def make_plan(
    config: Config, scheduler: Scheduler, tasks: Sequence[TaskInputs], visits: Mapping[int, Sequence[int]], *,
    encoder_parameters: int, device: torch.device, precision: str, rows_buffer_bytes: int,
    regularizers: Sequence[Regularizer], first_step: int, started_from: Sequence[str], task_independent: bool,
    apart: Sequence[str],
) -> Plan:  # fmt: skip
    """Return the mixing plan with notes and warnings.

    Args:
        visits: micro-batches of each task in each stage, as counted by `visits_by_stage`.
        started_from: notes about the run that `init` names.
        task_independent: whether the architecture's features are the same for all tasks.
        apart: why tasks of one file share no pass of the encoder.
    """
    steps_per_epoch, ends = run_lengths(config, scheduler)
    steps = ends[-1]
    counts = [sum(of_task) for of_task in zip(*visits.values(), strict=True)]
    total = max(1, sum(counts))
    planned = tuple(_task_plan(config, task, count, total, steps) for task, count in zip(tasks, counts, strict=True))
    notes, warnings = list(started_from), _rate_warnings(config, steps, len(ends))
    for task, task_plan in zip(tasks, planned, strict=True):
        notes += [note for split in task.loaded.splits.values() for note in split.notes]
        notes += class_notes(task.loaded, config.balancer)
        windows = task.batches.tokenized.windows if task.loaded.splits["train"].encoding.in_parts else None
        notes += _notes(task_plan, windows, config.encoder.max_length)
        warnings += class_warnings(task.loaded)
        warnings += _warnings(task.loaded, task_plan)
    groups = [task.batches.group for task in tasks]
    passes = passes_of_groups(scheduler, groups, steps, steps_per_epoch) if task_independent else {}
    notes += [_note_on_group(tasks, group, passes.get(group), rows_buffer_bytes > 0) for group in _numbers(groups)]
    notes += apart
    warnings += _leaks_between_tasks(tasks)
    method = config.balancer.name + (f"+{config.gradient_regularizer.name}" if config.gradient_regularizer else "")
    return Plan(
        tasks=planned,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        epoch_ends=tuple(ends),
        scheduler=config.scheduler.name,
        balancer=method,
        encoder=config.encoder.name,
        encoder_parameters=encoder_parameters,
        device=str(device),
        precision=precision,
        rows_buffer_bytes=rows_buffer_bytes,
        forward_passes=sum(regularizer.forward_passes for regularizer in regularizers),
        backward_passes=sum(regularizer.backward_passes for regularizer in regularizers),
        first_step=first_step,
        batches_per_step=None if scheduler.chooses_rows else sum(counts) / steps,
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def shared_size(architecture: Architecture, tasks: int) -> int:
    """Count the shared parameters of an architecture, frozen ones included."""
    private = {id(parameter) for task in range(tasks) for parameter in architecture.private_parameters(task)}
    return sum(parameter.numel() for parameter in architecture.parameters() if id(parameter) not in private)


def _task_plan(config: Config, task: TaskInputs, count: int, total: int, steps: int) -> TaskPlan:
    batches, name = task.batches, task.loaded.task.name
    section = config.tasks[name]
    return TaskPlan(
        name=name,
        rows=task.loaded.splits["train"].labeled,
        dev_rows=task.dev_rows,
        batch_size=batches.batch_size,
        batches_per_step=count / max(1, steps),
        share=count / total,
        passes=count / batches.per_pass,
        truncated=batches.tokenized.truncated,
        texts=len(batches.tokenized) * len(batches.tokenized.sides),
        encoding=section.encoding or "",
        head=section.head.name if section.head else "",
        parameters=task.parameters,
        auxiliary=section.auxiliary,
    )


def _rate_warnings(config: Config, steps: int, epochs: int) -> list[str]:
    """Warn about a plateau schedule that can never lower the rate in this run."""
    patience, every = config.optimizer.plateau_patience, config.training.eval_every
    evaluations = epochs if every == "epoch" else -(-steps // every)
    if config.optimizer.schedule != "plateau" or evaluations > patience + 1:
        return []
    times = "once" if evaluations == 1 else f"{evaluations} times"
    return [
        f"the plateau schedule has no effect: this run evaluates {times}, and the rate drops after {patience + 1} evaluations at "
        "the earliest (optimizer.plateau_patience, training.eval_every)"
    ]


def _notes(planned: TaskPlan, windows: tuple[int, int] | None, limit: int) -> list[str]:
    """Return notes about texts that are truncated or read in parts, and about the number of passes over the rows."""
    notes = []
    # Below 1 %, truncation hardly affects a metric and the note would be noise.
    if planned.truncated > 0.01 * planned.texts:
        share = 100 * planned.truncated / planned.texts
        notes.append(
            f"{planned.name}: {share:.1f} % of the texts are longer than {limit} tokens and are truncated (encoder.max_length)"
        )
    if windows is not None:
        rows, parts = windows
        notes.append(
            f"{planned.name}: {rows} texts are longer than {limit} tokens and are read in {parts} overlapping parts"
        )
    if planned.passes > 15:
        notes.append(
            f"{planned.name}: the run makes {planned.passes:.1f} passes over its rows; consider fewer epochs or another scheduler"
        )
    return notes


def _numbers(groups: Sequence[int | None]) -> list[int]:
    """Return the different groups in order."""
    return [group for group in dict.fromkeys(groups) if group is not None]


def _note_on_group(tasks: Sequence[TaskInputs], group: int, counts: tuple[int, int] | None, has_rows: bool) -> str:
    """Return whether tasks that read the same rows share passes of the encoder.

    Args:
        counts: their micro-batches and the passes for these, see `passes_of_groups`; None if the architecture rules it out.
        has_rows: whether each task has a row of gradients, and so a backward pass of its own.
    """
    names = [task.loaded.task.name for task in tasks if task.batches.group == group]
    start = f"{', '.join(names[:-1])} and {names[-1]} read the same rows"
    if counts is None:
        return f"{start}, but share no pass of the encoder: in this architecture every task has features of its own"
    batches, passes = counts
    if passes == batches:
        return f"{start}, but share no pass of the encoder: no step has the same rows of several tasks"
    shared = "forward pass" if has_rows else "forward and backward pass"
    return f"{start}: in a step they share one {shared} of the encoder and its dropout ({passes:,} passes for {batches:,} batches)"


def _leaks_between_tasks(tasks: Sequence[TaskInputs]) -> list[str]:
    """Return warnings about dev rows of a task whose texts other tasks train on, and the task itself does not."""
    warnings = []
    for task in tasks:
        own = task.loaded.splits["train"]
        for split_name, split in task.loaded.dev.items():
            unseen = split.hashes[~np.isin(split.hashes, own.hashes)]
            for other in tasks:
                train = other.loaded.splits["train"]
                shared = int(np.isin(unseen, train.hashes).sum())
                if other is not task and shared:
                    warnings.append(
                        f"{task.loaded.task.name}: {shared} of {len(split)} {in_words(split_name)} rows have the texts of a training row "
                        f"of {other.loaded.task.name}"
                    )
    return warnings


def _warnings(task: LoadedTask, planned: TaskPlan) -> list[str]:
    """Return warnings about a task's rows and its part in the run."""
    name = planned.name
    warnings = [warning for split in task.splits.values() for warning in split.warnings]
    if planned.share == 0:
        warnings.append(f"{name}: the scheduler never visits this task")
    if planned.auxiliary:
        return warnings
    if not task.dev:
        warnings.append(
            f"{name}: no dev rows, so it is not evaluated and does not affect which checkpoint is kept; hold some out with "
            f"--set tasks.{name}.dev=10%"
        )
        return warnings
    for split_name, split in task.dev.items():
        shared, words = overlap(task.splits["train"], split), in_words(split_name)
        if shared == len(split):
            warnings.append(
                f"{name}: all {shared} {words} rows are training rows, so dev metrics do not measure generalization"
            )
        elif shared:
            warnings.append(f"{name}: {shared} of {len(split)} {words} rows have the texts of a training row")
    return warnings
