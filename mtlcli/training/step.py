"""One optimizer update of a run: stage, rows, gradients, clipping, the optimizer, and who hears of it."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from mtlcli.data.batches import collate
from mtlcli.devices import not_enough_memory
from mtlcli.errors import MtlError
from mtlcli.model.frozen import compute_features, size_of
from mtlcli.model.predict import loss_on, probabilities_of
from mtlcli.plugin import EpochResult, ProbeResult, StepResult
from mtlcli.schedulers.base import Candidates, Position, Stage, Visit
from mtlcli.training.engine import Combined, TaskLoss
from mtlcli.training.events import Stepped
from mtlcli.training.log import log_step
from mtlcli.training.optimizer import Plateau, clip_gradients, rate_factor, set_rates
from mtlcli.training.setup import TrainingRun
from mtlcli.training.state import Progress, best_checkpoint

SKIPS_IN_A_ROW = 10
"""Steps that `on_nan: skip` may leave out one after the other before the run stops."""


def take_step(run: TrainingRun, progress: Progress, log: TextIO) -> Stepped:
    """One optimizer update, after `enter_stage`."""
    plan, names = run.plan, run.model.names
    position = Position(progress.step, plan.steps, plan.steps_per_epoch)
    stage = run.scheduler.stage(position)
    visits = run.scheduler.visits(position)
    step = _chosen(run, visits, position) if run.scheduler.chooses_rows else [_next(run, visit) for visit in visits]
    try:
        combined = run.engine.run(step)
    except torch.OutOfMemoryError as error:
        texts, length = max(
            (tuple(batch.tokens.shape) for one in step for batch in one.batches), key=lambda shape: shape[0] * shape[1]
        )
        raise not_enough_memory(" or ".join(names[one.task] for one in step), texts, length) from error
    gradients = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
    norm = clip_gradients(gradients, run.config.optimizer.clip)
    totals = combined.totals.tolist()
    scheduled = rate_factor(run.config.optimizer, progress.step - stage.start, stage.steps)
    factor = stage.lr * scheduled * progress.plateau.factor
    progress.step += 1
    progress.cursors = [batches.cursor for batches in run.train]
    skipped = not (math.isfinite(norm) and all(map(math.isfinite, totals)))
    if skipped:
        _not_finite(run, progress, step, combined, norm, factor)
    else:
        set_rates(run.optimizer, factor)
        run.optimizer.step()
        progress.skipped_in_a_row = 0
        _tell_step(run, progress.step, combined, step)
        _probe(run, position)
    losses = dict(zip((names[one.task] for one in step), combined.losses.tolist(), strict=True))
    weights = dict(zip(losses, combined.weights.tolist(), strict=True))
    if not skipped:
        for name, loss in losses.items():
            progress.epoch_sums[name] = progress.epoch_sums.get(name, 0.0) + loss
            progress.epoch_counts[name] = progress.epoch_counts.get(name, 0) + 1
    lr = factor * run.config.optimizer.lr
    epoch = bisect_right(plan.epoch_ends, position.step)
    stepped = Stepped(progress.step, epoch, losses, weights, lr, norm, skipped)
    log_step(log, stepped, combined, coefficients=run.gradient_regularizer is not None)
    return stepped


def enter_stage(run: TrainingRun, folder: Path, progress: Progress) -> Iterator[str]:
    """At the first step of a stage, and of a run that goes on within one: freezes what the stage freezes; starts the optimizer's
    averages and the rate's plateau anew, from the weights it asks for; keeps what a frozen encoder makes of the texts. Yields
    what is worth a line, before the work it speaks of."""
    stage = run.scheduler.stage(Position(progress.step, run.plan.steps, run.plan.steps_per_epoch))
    if run.kept.stage == (stage.start, stage.frozen):
        return
    run.kept.forget((stage.start, stage.frozen))
    run.model.freeze(stage.frozen)
    if progress.step == stage.start > 0:
        run.optimizer.state.clear()
        progress.plateau = Plateau()
        if stage.weights == "best" and progress.best_step is not None:
            run.model.load_state_dict(best_checkpoint(folder, progress.best_step).tensors("model"))
    if run.model.encoder_is_frozen and not any(one.forward_passes for one in run.regularizers):
        yield from _keep_features(run, stage)


def _keep_features(run: TrainingRun, stage: Stage) -> Iterator[str]:
    """The features of every task whose rows the stage sees twice or more, as long as there is room for them."""
    room = run.config.training.feature_memory * 1e9
    for task, visits in enumerate(run.visits.get(stage.start, ())):
        if visits < 2 * run.train[task].per_pass or not room:
            continue
        name = run.model.names[task]
        splits = [one for one in (run.train[task].tokenized, run.dev.get(name)) if one is not None]
        size = sum(size_of(run.model, task, one, run.device, run.autocast) for one in splits)
        texts = sum(len(one) * len(one.sides) for one in splits)
        if size > room:
            yield (
                f"{name}: the encoder is frozen; keeping what it makes of {texts:,} texts would take {size / 1e9:.1f} GB, and "
                f"training.feature_memory leaves {room / 1e9:.1f}: it reads them anew in every pass"
            )
            continue
        room -= size
        yield f"{name}: the encoder is frozen: reading {texts:,} texts once ({size / 1e6:,.0f} MB)"
        try:
            run.kept.train[task], *dev = (
                compute_features(run.model, task, one, run.device, run.autocast) for one in splits
            )
        except torch.OutOfMemoryError as error:
            raise MtlError(
                f"{name}: {run.device} has no room for {size / 1e9:.1f} GB of features of a frozen encoder; lower it: --set "
                "training.feature_memory=0"
            ) from error
        if dev:
            run.kept.dev[task] = dev[0]


def _next(run: TrainingRun, visit: Visit) -> TaskLoss:
    batches = run.train[visit.task]
    micro_batches = tuple(batches.next().to(run.device) for _ in range(visit.micro_batches))
    return TaskLoss(visit.task, micro_batches, visit.weight)


def _chosen(run: TrainingRun, visits: list[Visit], position: Position) -> list[TaskLoss]:
    """The visits are a pool of candidates; of those the scheduler keeps some rows of some tasks, as one batch each."""
    pool, rows = [], []
    for visit in visits:
        batches = [run.train[visit.task].next() for _ in range(visit.micro_batches)]
        found = [probabilities_of(run.model, one.to(run.device), run.autocast) for one in batches]
        known = [one for one in found if one is not None]
        rows.append(np.concatenate([one.rows for one in batches]))
        pool.append(Candidates(visit.task, len(rows[-1]), torch.cat(known) if known else None))
    kept = run.scheduler.choose(pool, position)
    return [
        TaskLoss(one.task, (collate(run.train[one.task].tokenized, one.task, mine[chosen.numpy()]).to(run.device),))
        for one, mine, chosen in zip(pool, rows, kept, strict=True)
        if len(chosen)
    ]


def _probe(run: TrainingRun, position: Position) -> None:
    """The small validation that the scheduler asks for, on dev rows drawn as a function of (seed, step)."""
    probe = run.scheduler.probe(position)
    if probe is None:
        return
    losses = {}
    for task in probe.tasks:
        tokenized = run.dev.get(run.model.names[task])
        if tokenized is not None:
            size = min(len(tokenized), probe.batches * run.train[task].batch_size)
            generator = run.scheduler.run.generator(f"probe {position.step} {task}")
            rows = torch.randperm(len(tokenized), generator=generator)[:size].numpy()
            losses[task] = loss_on(run.model, collate(tokenized, task, rows).to(run.device), run.autocast)
    run.scheduler.on_probe(ProbeResult(position.step + 1, losses))


def _tell_step(run: TrainingRun, number: int, combined: Combined, step: list[TaskLoss]) -> None:
    after = run.engine.losses_after(step) if "losses-after" in run.balancer.needs else None
    result = StepResult(number, combined.tasks.cpu(), combined.losses, combined.weights.detach(), combined.gram, after)
    for plugin in run.plugins().values():
        plugin.on_step(result)
    for regularizer in run.regularizers:
        regularizer.after_step(run.model)


def end_epoch(run: TrainingRun, progress: Progress, epoch: int) -> None:
    means = {
        run.model.names.index(name): total / progress.epoch_counts[name] for name, total in progress.epoch_sums.items()
    }
    for plugin in run.plugins().values():
        plugin.on_epoch(EpochResult(epoch, means))
    progress.epoch_sums, progress.epoch_counts = {}, {}


def _not_finite(
    run: TrainingRun, progress: Progress, step: list[TaskLoss], combined: Combined, norm: float, factor: float
) -> None:
    """Counts a step that was left out, or says which task and rows are to blame. Raises MtlError."""
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    names = run.model.names
    lines = []
    for index, one in enumerate(step):
        loss = float(combined.totals[index])
        own = [p.grad for p in run.engine.private[one.task] if p.grad is not None]
        gram_bad = combined.gram is not None and not bool(torch.isfinite(combined.gram[index, index]))
        if not math.isfinite(loss) or gram_bad or not all(bool(torch.isfinite(gradient).all()) for gradient in own):
            split = run.tasks[one.task].splits["train"]
            places = ", ".join(split.place(int(row)) for batch in one.batches for row in batch.rows[:4])
            lines.append(
                f"step {progress.step}: {names[one.task]}: loss {loss:g}, gradient not finite; rows {places}, ..."
            )
    for parameter in run.model.parameters():
        parameter.grad = None
    if not lines:
        listed = ", ".join(
            f"{names[one.task]} {float(loss):g}" for one, loss in zip(step, combined.totals, strict=True)
        )
        lines.append(f"step {progress.step}: gradient norm {norm:g} with finite losses ({listed})")
    if run.config.training.on_nan == "skip" and progress.skipped_in_a_row < SKIPS_IN_A_ROW:
        return
    lr = run.config.optimizer.lr * factor
    many = f" ({SKIPS_IN_A_ROW} steps in a row)" if run.config.training.on_nan == "skip" else ""
    raise MtlError(
        *lines,
        f"stopped{many}: at a learning rate of {lr:g}; lower --lr, or leave such steps out with --set training.on_nan=skip; "
        "the last checkpoint is whole (--resume)",
    )
