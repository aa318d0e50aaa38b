"""The mixing plan: what a run is going to do, counted by the scheduler that will do it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch

from mtlcli.architectures.base import Architecture
from mtlcli.config.schema import Config
from mtlcli.data.batches import TaskBatches
from mtlcli.data.splits import LoadedTask, overlap
from mtlcli.regularizers.base import Regularizer
from mtlcli.schedulers.base import Position, Scheduler


@dataclass(frozen=True)
class TaskPlan:
    """One task of the plan. `share` is its part of all micro-batches, `passes` how often its rows are seen, and
    `truncated` how many of its texts are longer than max_length."""

    name: str
    rows: int
    dev_rows: int
    batch_size: int
    share: float
    passes: float
    truncated: int
    texts: int
    encoding: str
    head: str
    parameters: int


@dataclass(frozen=True)
class Plan:
    """The whole run before step 1. `epoch_ends` are the steps after which each epoch ends, `rows_buffer_bytes` is what the
    gradient rows will take, 0 where they are not needed; `forward_passes` and `backward_passes` are what regularizers add to
    the one of each batch."""

    tasks: tuple[TaskPlan, ...]
    steps: int
    steps_per_epoch: int
    epoch_ends: tuple[int, ...]
    scheduler: str
    balancer: str
    encoder: str
    encoder_parameters: int
    device: str
    precision: str
    rows_buffer_bytes: int
    forward_passes: float
    backward_passes: float
    first_step: int
    notes: tuple[str, ...]


def visits_by_stage(scheduler: Scheduler, tasks: int, steps: int, steps_per_epoch: int) -> dict[int, list[int]]:
    """Micro-batches of each task in each stage, by the step it begins at, as the scheduler decides without having heard any
    result."""
    trial, counts = deepcopy(scheduler), dict[int, list[int]]()
    for step in range(steps):
        position = Position(step, steps, steps_per_epoch)
        of_stage = counts.setdefault(trial.stage(position).start, [0] * tasks)
        for visit in trial.visits(position):
            of_stage[visit.task] += visit.micro_batches
    return counts


def run_lengths(config: Config, scheduler: Scheduler) -> tuple[int, list[int]]:
    """Steps of an epoch, and the steps after which each epoch ends."""
    training = config.training
    steps_per_epoch = training.steps_per_epoch or scheduler.steps_per_epoch()
    return steps_per_epoch, scheduler.epoch_ends(training.epochs or 1, training.steps, steps_per_epoch)


@dataclass(frozen=True)
class TaskInputs:
    """What the plan needs to know of one task: its rows, its batches and the trainable parameters that only it uses."""

    loaded: LoadedTask
    batches: TaskBatches
    dev_rows: int
    parameters: int


def make_plan(
    config: Config, scheduler: Scheduler, tasks: Sequence[TaskInputs], visits: Mapping[int, Sequence[int]], *,
    encoder_parameters: int, device: torch.device, precision: str, rows_buffer_bytes: int,
    regularizers: Sequence[Regularizer], first_step: int, started_from: Sequence[str],
) -> Plan:  # fmt: skip
    """Return the mixing plan and notes about it.

    `visits` are the micro-batches of each task in each stage, as counted by `visits_by_stage`; `started_from` are notes about
    the run that `init` names.
    """
    steps_per_epoch, ends = run_lengths(config, scheduler)
    steps = ends[-1]
    counts = [sum(of_task) for of_task in zip(*visits.values(), strict=True)]
    total = max(1, sum(counts))
    planned = tuple(_task_plan(config, task, count, total) for task, count in zip(tasks, counts, strict=True))
    notes = [*started_from, *_rate_notes(config, steps, len(ends))]
    for task, task_plan in zip(tasks, planned, strict=True):
        notes += _notes(task.loaded, task_plan, config.encoder.max_length)
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
        notes=tuple(notes),
    )


def shared_size(architecture: Architecture, tasks: int) -> int:
    """Count the parameters of an architecture that belong to no single task, frozen ones included."""
    private = {id(parameter) for task in range(tasks) for parameter in architecture.private_parameters(task)}
    return sum(parameter.numel() for parameter in architecture.parameters() if id(parameter) not in private)


def _task_plan(config: Config, task: TaskInputs, count: int, total: int) -> TaskPlan:
    batches, name = task.batches, task.loaded.task.name
    section = config.tasks[name]
    return TaskPlan(
        name=name,
        rows=len(batches.tokenized),
        dev_rows=task.dev_rows,
        batch_size=batches.batch_size,
        share=count / total,
        passes=count / batches.per_pass,
        truncated=batches.tokenized.truncated,
        texts=len(batches.tokenized) * len(batches.tokenized.sides),
        encoding=section.encoding or "",
        head=section.head.name if section.head else "",
        parameters=task.parameters,
    )


def _rate_notes(config: Config, steps: int, epochs: int) -> list[str]:
    """What a user should know of a rate that waits for rising losses: after the last evaluation it can fall no more."""
    patience, every = config.optimizer.plateau_patience, config.training.eval_every
    evaluations = epochs if every == "epoch" else -(-steps // every)
    if config.optimizer.schedule != "plateau" or evaluations > patience + 1:
        return []
    return [
        f"the rate cannot fall: {evaluations} evaluation{'s' if evaluations > 1 else ''}, and it falls after {patience + 1} at "
        "the earliest (optimizer.plateau_patience, training.eval_every)"
    ]


def _notes(task: LoadedTask, planned: TaskPlan, limit: int) -> list[str]:
    """What a user should know of a task before the run starts."""
    name = planned.name
    notes = [warning for split in task.splits.values() for warning in split.warnings]
    if planned.truncated > 0.01 * planned.texts:
        share = 100 * planned.truncated / planned.texts
        notes.append(
            f"{name}: {share:.1f} % of the texts are longer than {limit} tokens and are truncated (encoder.max_length)"
        )
    if planned.passes > 15:
        notes.append(
            f"{name}: its rows are seen {planned.passes:.1f} times; consider fewer epochs or another scheduler"
        )
    if planned.share == 0:
        notes.append(f"{name}: this schedule never visits it")
    if "dev" not in task.splits:
        notes.append(f"{name}: no dev rows, so it has no part in choosing the best checkpoint")
    elif shared := overlap(task.splits["train"], task.splits["dev"]):
        notes.append(f"{name}: {shared} of {planned.dev_rows} dev rows have the texts of a training row")
    return notes
