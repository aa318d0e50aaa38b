"""One optimizer update of a run: stage, rows, gradients, clipping, optimizer, and the plugins' hooks."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from mtlcli.data.batches import collate
from mtlcli.devices import is_out_of_memory, not_enough_memory
from mtlcli.distributed.sharding import local
from mtlcli.errors import MtlError
from mtlcli.facts import seed_for
from mtlcli.model.frozen import Features, compute_features, layers_read, size_of
from mtlcli.model.predict import loss_on, uncertainty_of
from mtlcli.plugin import EpochResult, ProbeResult, StepResult
from mtlcli.registry import plugin_call, require
from mtlcli.schedulers.base import Candidates, Position, Stage, Visit, stage_at, visits_at
from mtlcli.training.engine import Combined
from mtlcli.training.events import Stepped
from mtlcli.training.log import log_step
from mtlcli.training.optimizer import Plateau, clip_gradients, rate_factor, set_rates
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import TrainingRun
from mtlcli.training.state import Progress, load_best

SKIPS_IN_A_ROW = 10
"""Consecutive steps that `on_nan: skip` may skip before the run stops, because it has then diverged."""


def take_step(run: TrainingRun, progress: Progress, log: TextIO, saved_step: int | None = None) -> Stepped:
    """Make one optimizer update, after `enter_stage`.

    Args:
        saved_step: step of the newest checkpoint, for the error message; None if there is none.

    Raises:
        MtlError: a loss or gradient is not finite and the run stops, or memory runs out.
    """
    plan, names = run.plan, run.model.names
    position = Position(progress.step, plan.steps, plan.steps_per_epoch)
    stage, visits = stage_at(run.scheduler, position), visits_at(run.scheduler, position)
    step = _draw(run, visits, position)
    run.model.architecture.set_progress(position.step / plan.steps)
    if not run.world.is_alone:
        run.world.at(f"step {position.step + 1:,}")
        # What is not drawn by row, such as dropout of attention weights inside a fused kernel, is drawn by process.
        torch.manual_seed(seed_for(run.config.training.seed, "process", position.step, run.world.rank))
    try:
        combined = run.engine.run(step)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # The batch with the most tokens is the likely cause.
        texts, length = max(
            (tuple(batch.tokens.shape) for part in step for batch in part.batches),
            key=lambda shape: shape[0] * shape[1],
            default=(0, 0),
        )
        raise not_enough_memory(" or ".join(names[part.task] for part in step), texts, length) from error
    # `local` returns a view of the part in this process, so clipping changes the gradient itself.
    gradients = [local(parameter.grad) for parameter in run.model.parameters() if parameter.grad is not None]
    norm = run.engine.norm()
    clip_gradients(gradients, norm, run.config.optimizer.clip)
    totals = combined.totals.tolist()
    # The warm-up and decay run within each stage.
    scheduled = rate_factor(run.config.optimizer, progress.step - stage.start, stage.steps)
    factor = stage.lr * scheduled * progress.plateau.factor
    progress.step += 1
    # A skipped step counts and consumes its rows, so that the run does not meet the same rows again at once.
    progress.cursors = [batches.cursor for batches in run.train]
    skipped = not (math.isfinite(norm) and all(map(math.isfinite, totals)))
    if skipped:
        _handle_not_finite(run, progress, step, combined, norm, factor, saved_step)
    else:
        set_rates(run.optimizer, factor)
        run.optimizer.step()
        progress.skipped_in_a_row = 0
        _call_on_step(run, progress.step, combined, step)
        _probe(run, position)
    losses = dict(zip((names[part.task] for part in step), combined.losses.tolist(), strict=True))
    weights = dict(zip(losses, combined.weights.tolist(), strict=True))
    if not skipped:
        for name, loss in losses.items():
            progress.epoch_sums[name] = progress.epoch_sums.get(name, 0.0) + loss
            progress.epoch_counts[name] = progress.epoch_counts.get(name, 0) + 1
    lr = factor * run.config.optimizer.lr
    # `position.step` counts from 0, so a step whose number equals an end belongs to the next epoch.
    epoch = bisect_right(plan.epoch_ends, position.step)
    stepped = Stepped(progress.step, epoch, losses, weights, lr, norm, skipped)
    line = log_step(
        log, stepped, combined, run.model.architecture.measures(), coefficients=run.gradient_regularizer is not None
    )
    return replace(stepped, line=line)


def enter_stage(run: TrainingRun, folder: Path, progress: Progress) -> Iterator[str]:
    """Prepare the model and optimizer at the first step of a stage, or of a run resumed within one.

    Freeze the stage's parts. A new stage also resets the optimizer's state and the plateau schedule, and loads the best weights
    if it starts from them. Features of a frozen encoder are computed once. Yield a line before slow work.
    """
    stage = stage_at(run.scheduler, Position(progress.step, run.plan.steps, run.plan.steps_per_epoch))
    # `stage` is None in a new process, so a run resumed within a stage enters it as well.
    if run.kept.stage == (stage.start, stage.frozen):
        return
    run.kept.forget((stage.start, stage.frozen))
    run.model.freeze(stage.frozen)
    # Not within the stage: a resumed run has restored the optimizer and the plateau of the stage.
    if progress.step == stage.start > 0:
        run.optimizer.state.clear()
        progress.plateau = Plateau()
        if stage.weights == "best" and progress.best_step is not None:
            load_best(run, folder, progress.best_step)
    # A regularizer that runs the model again needs the encoder's graph, which cached features do not have.
    if run.model.states_are_frozen and not any(regularizer.forward_passes for regularizer in run.regularizers):
        yield from _keep_features(run, stage)


def _keep_features(run: TrainingRun, stage: Stage) -> Iterator[str]:
    """Compute the features of every task whose rows the stage reads at least twice, within training.feature_memory.

    Tasks that read the same layers of the same texts, and can share a pass of the encoder, have the same features.
    """
    room = run.config.training.feature_memory * 1e9
    stored: dict[tuple[object, ...], Features] = {}
    for task, visits in enumerate(run.visits.get(stage.start, ())):
        if visits < 2 * run.train[task].per_pass or not room:
            continue
        name = run.model.names[task]
        splits = {"train": run.train[task].tokenized, **run.dev.get(name, {})}
        owner = run.model.pass_of(task)
        # Splits with the same texts and encoding share one `sides` object, so its id identifies the texts.
        keys = {split: (id(rows.sides), layers_read(run.model, task), owner) for split, rows in splits.items()}
        missing = {keys[split]: rows for split, rows in splits.items() if keys[split] not in stored}
        size = sum(size_of(run.model, task, rows, run.device, run.autocast) for rows in missing.values())
        texts = sum(len(rows) * len(rows.sides) for rows in missing.values())
        if size > room:
            yield (
                f"{name}: the encoder is frozen, but the features of {texts:,} texts need {size / 1e9:.1f} GB and "
                f"training.feature_memory leaves {room / 1e9:.1f} GB, so they are computed in every pass"
            )
            continue
        room -= size
        if missing:
            yield f"{name}: the encoder is frozen: encoding {texts:,} texts once ({size / 1e6:,.0f} MB)"
        try:
            for key, rows in missing.items():
                stored[key] = compute_features(run.model, task, rows, run.device, run.autocast, run.world)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MtlError(
                f"{name}: not enough memory on {run.device} for {size / 1e9:.1f} GB of cached features of a frozen encoder; turn "
                "the cache off: --set training.feature_memory=0"
            ) from error
        of_task = {split: stored[key] for split, key in keys.items()}
        run.kept.train[task] = of_task.pop("train")
        run.kept.dev[task] = of_task


def _draw(run: TrainingRun, visits: list[Visit], position: Position) -> list[TaskLoss]:
    """Take the next rows of each visit. A task without a labeled row among them sits the step out.

    Where that is so for every task, the step takes the rows after these.
    """
    while True:
        step = (
            _rows_of_candidates(run, visits, position)
            if run.scheduler.chooses_rows
            else [_next(run, visit, position) for visit in visits]
        )
        if labeled := [part for part in step if part.has_labels]:
            return labeled


def _next(run: TrainingRun, visit: Visit, position: Position) -> TaskLoss:
    rows = [run.train[visit.task].next_rows() for _ in range(visit.micro_batches)]
    return _task_loss(run, visit.task, rows, position, visit.weight)


def _task_loss(
    run: TrainingRun, task: int, micro_batches: list[np.ndarray], position: Position, weight: float = 1.0
) -> TaskLoss:
    """Return the rows of a task's micro-batches that this process works on, as batches on the device."""
    source, seed = run.train[task], run.config.training.seed
    batches = []
    for number, rows in enumerate(micro_batches):
        if run.coupling_of(task) == "rows":
            part = rows[run.world.share(len(rows))]
        else:
            # A loss that compares rows needs them all, so micro-batches take turns.
            part = rows if (task + number) % run.world.size == run.world.rank else rows[:0]
        # The layers of an encoder that is divided are gathered for every pass, so all processes run the same number.
        is_idle = not len(part) and run.engine.is_sharded
        if len(part) or is_idle:
            # Tasks of one group have one `order_name`, so the members of a shared pass have the same dropout masks.
            noise = seed_for(seed, "noise", position.step, source.order_name, number)
            batch = source.batch(rows[:1] if is_idle else part, noise).to(run.device)
            batches.append(replace(batch, is_idle=is_idle))
    if run.world.is_alone:
        return TaskLoss(task, tuple(batches), weight)
    # Counted from the labels of all rows, which every process has read: no exchange before the backward pass.
    whole = (sum(map(len, micro_batches)), sum(float(source.units(rows).sum()) for rows in micro_batches))
    return TaskLoss(task, tuple(batches), weight, whole)


def _rows_of_candidates(run: TrainingRun, visits: list[Visit], position: Position) -> list[TaskLoss]:
    """Offer the labeled rows of all visits to the scheduler, and return the rows that it selects as one batch per task."""
    pool, rows = [], []
    for visit in visits:
        batches = [run.train[visit.task].next_rows() for _ in range(visit.micro_batches)]
        parts = [_uncertainty(run, visit.task, numbers) for numbers in batches]
        offered = np.concatenate(batches)
        labeled = run.train[visit.task].units(offered) > 0
        if not labeled.any():
            continue
        uncertainties = [part for part in parts if part is not None]
        rows.append(offered[labeled])
        uncertainty = torch.cat(uncertainties)[torch.from_numpy(labeled)] if uncertainties else None
        pool.append(Candidates(visit.task, len(rows[-1]), uncertainty))
    if not pool:
        return []
    with plugin_call(run.scheduler, "choose", "for each member of the pool the numbers (m,) int64 of its rows"):
        choices = run.scheduler.choose(pool, position)
        require(len(choices) == len(pool), f"returned {len(choices)} tensors for {len(pool)} members")
        for candidates, choice in zip(pool, choices, strict=True):
            require(
                # NumPy would read a negative number as a position from the end.
                all(0 <= row < candidates.count for row in choice.tolist()),
                f"returned the rows {choice.tolist()!r:.100} of {candidates.count}",
            )
        require(any(len(choice) for choice in choices), "returned no rows")
    step = []
    for candidates, task_rows, choice in zip(pool, rows, choices, strict=True):
        if len(choice):
            step.append(_task_loss(run, candidates.task, [task_rows[choice.numpy()]], position))
    return step


def _uncertainty(run: TrainingRun, task: int, rows: np.ndarray) -> torch.Tensor | None:
    """Return how unsure the model is of each row (n,), see `uncertainty_of`; each process computes a part."""
    part = rows[run.world.share(len(rows))]
    values: list[float] | None = []
    if len(part) or run.engine.is_sharded:
        batch = run.train[task].batch(part if len(part) else rows[:1]).to(run.device)
        of_batch = uncertainty_of(run.model, batch, run.autocast)
        values = None if of_batch is None else of_batch.tolist()[: len(part)]
    uncertainty = torch.zeros(len(rows), dtype=torch.float64)
    for rank, of_process in enumerate(run.world.gather(values)):
        if of_process is None:
            return None
        # The inverse of `World.share`.
        uncertainty[rank :: run.world.size] = torch.tensor(of_process, dtype=torch.float64)
    return uncertainty


def _probe(run: TrainingRun, position: Position) -> None:
    """Run the probe that the scheduler requests, if any, on dev rows drawn by seed and step."""
    with plugin_call(run.scheduler, "probe", "a Probe or None"):
        probe = run.scheduler.probe(position)
    if probe is None:
        return
    losses = {}
    for task in probe.tasks:
        splits = run.selecting(run.model.names[task])
        if splits:
            ends = np.cumsum([len(tokenized) for tokenized in splits])
            size = min(int(ends[-1]), probe.batches * run.train[task].batch_size)
            # A generator of this step alone, so that a resumed run draws the same rows.
            generator = run.scheduler.run.generator(f"probe {position.step} {task}")
            drawn = torch.randperm(int(ends[-1]), generator=generator)[:size].numpy()
            # Rows are numbered across the splits, and `right` puts row ends[i] into split i + 1.
            of_splits = np.searchsorted(ends, drawn, side="right")
            parts = []
            for index in np.unique(of_splits).tolist():
                rows = drawn[of_splits == index] - (ends[index] - len(splits[index]))
                batch = collate(splits[index], task, rows).to(run.device)
                parts.append((loss_on(run.model, batch, run.autocast), len(rows)))
            losses[task] = parts[0][0] if len(parts) == 1 else sum(loss * count for loss, count in parts) / size
    with plugin_call(run.scheduler, "on_probe", "nothing in return"):
        run.scheduler.on_probe(ProbeResult(position.step + 1, losses))


def _call_on_step(run: TrainingRun, number: int, combined: Combined, step: list[TaskLoss]) -> None:
    after = run.engine.losses_after(step) if "losses-after" in run.balancer.needs else None
    result = StepResult(number, combined.tasks.cpu(), combined.losses, combined.weights.detach(), combined.gram, after)
    for plugin in run.plugins().values():
        with plugin_call(plugin, "on_step", "nothing in return"):
            plugin.on_step(result)
    for regularizer in run.regularizers:
        with plugin_call(regularizer, "after_step", "nothing in return"):
            regularizer.after_step(run.model)


def end_epoch(run: TrainingRun, progress: Progress, epoch: int) -> None:
    """Pass the mean losses of an epoch to the plugins, and reset the sums."""
    means = {
        run.model.names.index(name): total / progress.epoch_counts[name] for name, total in progress.epoch_sums.items()
    }
    for plugin in run.plugins().values():
        with plugin_call(plugin, "on_epoch", "nothing in return"):
            plugin.on_epoch(EpochResult(epoch, means))
    progress.epoch_sums, progress.epoch_counts = {}, {}


def _handle_not_finite(
    run: TrainingRun, progress: Progress, step: list[TaskLoss], combined: Combined, norm: float, factor: float,
    saved_step: int | None,
) -> None:  # fmt: skip
    """Count a skipped step, or stop the run.

    Raises:
        MtlError: the run stops, with the tasks and rows at fault and the options to change.
    """
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    # Before the gradients are removed, because they show which task is at fault.
    lines = _not_finite_lines(run, progress.step, step, combined, norm)
    for parameter in run.model.parameters():
        parameter.grad = None
    skips = run.config.training.on_nan == "skip"
    if skips and progress.skipped_in_a_row < SKIPS_IN_A_ROW:
        return
    lr = run.config.optimizer.lr * factor
    # On resuming, the learning rate must stay the same, but on_nan may change.
    or_skip = "" if skips else " or skip such steps with --set training.on_nan=skip"
    if saved_step is None:
        advice = f"no checkpoint is saved yet: start over with a lower --lr{or_skip}"
    else:
        advice = f"start over with a lower --lr; the checkpoint of step {saved_step} can be resumed (--resume)"
        advice += "" if skips else ", with --set training.on_nan=skip to skip such steps"
    many = f" after {SKIPS_IN_A_ROW} steps in a row" if skips else ""
    raise MtlError(*lines, f"stopped{many} at a learning rate of {lr:g}; {advice}")


def _not_finite_lines(
    run: TrainingRun, number: int, step: list[TaskLoss], combined: Combined, norm: float
) -> list[str]:
    """Name the tasks whose loss or gradient is not finite, and some of their rows."""
    names, lines = run.model.names, []
    for index, part in enumerate(step):
        loss = float(combined.totals[index])
        gradients = [p.grad for p in run.engine.private[part.task] if p.grad is not None]
        # The squared norm of the row of the task: not finite if an entry is not.
        shared_is_bad = combined.gram is not None and not bool(torch.isfinite(combined.gram[index, index]))
        if not math.isfinite(loss) or shared_is_bad or not all(bool(torch.isfinite(g).all()) for g in gradients):
            split = run.tasks[part.task].splits["train"]
            places = ", ".join(split.place(int(row)) for batch in part.batches for row in batch.rows[:4])
            lines.append(f"step {number}: {names[part.task]}: loss {loss:g}, gradient not finite; rows {places}, ...")
    if lines:
        return lines
    losses = (f"{names[part.task]} {float(loss):g}" for part, loss in zip(step, combined.totals, strict=True))
    return [f"step {number}: gradient norm {norm:g} with finite losses ({', '.join(losses)})"]
