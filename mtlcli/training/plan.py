"""Make the mixing plan: how often a run will train on each task, counted with the run's scheduler."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch

from mtlcli.architectures.base import part_of
from mtlcli.config.evaluation_sets import in_words
from mtlcli.config.schema import Config
from mtlcli.data.batches import TaskBatches
from mtlcli.data.splits import LoadedTask, overlap
from mtlcli.model.multitask import MultiTaskModel
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
    scheduler: Scheduler, groups: Sequence[Hashable | None], steps: int, steps_per_epoch: int
) -> dict[Hashable, tuple[int, int]]:
    """Count the micro-batches of each group of tasks with the same rows and states, and the passes of the encoder for them.

    Args:
        groups: group of each task, None for a task without one.
    """
    cursors = [0] * len(groups)
    counts = {group: (0, 0) for group in groups if group is not None}
    for _, visits in _steps(scheduler, steps, steps_per_epoch) if counts else ():
        rows: dict[Hashable, list[int]] = {}
        for visit in visits:
            # Tasks of a group have the same order of rows, so a position in it identifies the rows.
            start, end = cursors[visit.task], cursors[visit.task] + visit.micro_batches
            cursors[visit.task] = end
            group = groups[visit.task]
            if group is not None:
                rows.setdefault(group, []).extend(range(start, end))
        for group, of_step in rows.items():
            batches, passes = counts[group]
            # Rows that are chosen for each task separately rarely agree, so no pass is counted as shared.
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
        # `epochs` is None if `steps` is set, which then decides alone.
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


@dataclass(frozen=True)
class ModelSizes:
    """Hold numbers of parameters, and the cost of a batch.

    Attributes:
        shared: of the architecture, frozen ones included, that several tasks use.
        added: of the architecture besides its encoder.
        added_for: of these, those that a task alone uses, by task.
        trainable: of the whole model, heads included.
        everything: of the whole model, frozen ones included.
        encoder_passes: passes of the encoder that one batch costs.
        products: matrix products of a step over those of hard sharing, see `relative_products`; None if they are not counted.
    """

    shared: int
    added: int
    added_for: tuple[int, ...]
    trainable: int
    everything: int
    encoder_passes: float
    products: float | None = None


def make_plan(
    config: Config, scheduler: Scheduler, tasks: Sequence[TaskInputs], visits: Mapping[int, Sequence[int]], *,
    sizes: ModelSizes, device: torch.device, precision: str, rows_buffer_bytes: int,
    regularizers: Sequence[Regularizer], first_step: int, started_from: Sequence[str], passes: Sequence[Hashable],
    apart: Sequence[str], of_architecture: Sequence[str] = (), of_processes: Sequence[str] = (),
) -> Plan:  # fmt: skip
    """Return the mixing plan with notes and warnings.

    Args:
        visits: micro-batches of each task in each stage, as counted by `visits_by_stage`.
        started_from: notes about the run that `init` names.
        passes: of each task a key that is equal for tasks with the same states, see `Architecture.pass_of`.
        apart: why tasks of one file share no pass of the encoder.
        of_architecture: notes of the architecture.
        of_processes: notes about several processes.
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
    notes += _notes_on_groups(scheduler, tasks, passes, steps, steps_per_epoch, rows_buffer_bytes > 0)
    notes += _notes_on_sizes(config.architecture.name, sizes, [task.name for task in planned])
    notes += [*of_architecture, *apart, *of_processes]
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
        encoder_parameters=sizes.shared,
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


def model_sizes(model: MultiTaskModel) -> ModelSizes:
    """Count the parameters of a model."""
    architecture, parts = model.architecture, model.architecture.parts()
    encoder = {id(parameter) for parameter in architecture.encoder.parameters()}
    tasks, shared, added = range(len(model.names)), 0, 0
    added_for = dict.fromkeys(tasks, 0)
    for name, parameter in architecture.named_parameters():
        users = part_of(name, parts).tasks
        shared += parameter.numel() if users is None or len(users) > 1 else 0
        if id(parameter) not in encoder:
            added += parameter.numel()
            for task in users if users is not None and len(users) == 1 else ():
                added_for[task] += parameter.numel()
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    everything = sum(parameter.numel() for parameter in model.parameters())
    return ModelSizes(shared, added, tuple(added_for.values()), trainable, everything, architecture.encoder_passes())


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
    # Rounded up, because the last step is always evaluated.
    evaluations = epochs if every == "epoch" else -(-steps // every)
    # The first evaluation cannot be a rise, and a drop at the last one affects no step.
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


def _notes_on_sizes(architecture: str, sizes: ModelSizes, names: Sequence[str]) -> list[str]:
    """Return what the architecture adds to the encoder, how much of the model is trainable, and what a batch costs."""
    notes = []
    if sizes.added:
        each = set(sizes.added_for)
        by_task = ", ".join(f"{name} {count:,}" for name, count in zip(names, sizes.added_for, strict=True))
        added = f"{next(iter(each)):,} of each task" if len(each) == 1 else f"of the tasks: {by_task}"
        of_tasks = f", {added}" if any(each) else ", shared by the tasks"
        notes.append(f"{architecture} adds {sizes.added:,} parameters to the encoder{of_tasks}")
    if sizes.trainable < sizes.everything:
        share = 100 * sizes.trainable / sizes.everything
        percent = f"{share:.1f}" if share >= 1 else f"{share:.2g}"
        notes.append(
            f"{sizes.trainable:,} of {sizes.everything:,} parameters are trainable ({percent} %), heads included"
        )
    if sizes.encoder_passes != 1:
        notes.append(f"{architecture}: every batch costs {sizes.encoder_passes:g} passes of the encoder")
    if sizes.products is not None and round(sizes.products, 2) != 1:
        notes.append(f"{architecture}: a step computes {sizes.products:.2f} times the matrix products of hard sharing")
    return notes


def _notes_on_groups(
    scheduler: Scheduler, tasks: Sequence[TaskInputs], states: Sequence[Hashable], steps: int, steps_per_epoch: int,
    has_rows: bool,
) -> list[str]:  # fmt: skip
    """Return one note for each group of tasks that read the same rows: whether they share passes of the encoder.

    Args:
        has_rows: whether each task has a row of gradients, and so a backward pass of its own.
    """
    keys = [
        None if task.batches.group is None else (task.batches.group, of) for task, of in zip(tasks, states, strict=True)
    ]
    members = {key: [task for task, other in zip(tasks, keys, strict=True) if other == key] for key in keys if key}
    passes = passes_of_groups(scheduler, keys, steps, steps_per_epoch)
    notes = []
    for group in dict.fromkeys(key[0] for key in members):
        shared = [key for key, of_key in members.items() if key[0] == group and len(of_key) > 1]
        if not shared:
            of_group = [task for task in tasks if task.batches.group == group]
            notes.append(_note_on_group(of_group, None, has_rows))
        notes += [_note_on_group(members[key], passes[key], has_rows) for key in shared]
    return notes


def _note_on_group(tasks: Sequence[TaskInputs], counts: tuple[int, int] | None, has_rows: bool) -> str:
    """Return whether tasks that read the same rows share passes of the encoder.

    Args:
        counts: their micro-batches and the passes for these, see `passes_of_groups`; None if the architecture rules it out.
    """
    names = [task.loaded.task.name for task in tasks]
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
        rows = task.loaded.splits["train"]
        for split_name, split in task.loaded.dev.items():
            # Rows that the task itself trains on have a warning already, see `_warnings`.
            unseen = split.hashes[~np.isin(split.hashes, rows.hashes)]
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
    # An auxiliary task is not evaluated, so it needs no dev rows.
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
