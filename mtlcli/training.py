"""The run, to be read aloud: step after step, evaluations between them, checkpoints, and at the end the best model.

`train` yields what happens; whoever reads it prints. What a run leaves in its folder is written here.
"""

import json
import math
import shutil
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from mtlcli import __version__, checkpoint, run_folder, run_log
from mtlcli.checkpoint import Checkpoint
from mtlcli.data.batching import collate
from mtlcli.devices import not_enough_memory
from mtlcli.errors import MtlError
from mtlcli.evaluation import Predicted, loss_on, measure, predict_rows, probabilities_of
from mtlcli.events import Evaluated, Event, Finished, Notice, Saved, Started, Stepped
from mtlcli.gradients import Combined, TaskLoss
from mtlcli.metrics.bootstrap import Estimate
from mtlcli.news import EpochNews, EvaluationNews, ProbeNews, StepNews
from mtlcli.optimization import Plateau, clip_gradients, rate_factor, set_rates
from mtlcli.preparing import Prepared
from mtlcli.recipes import dump
from mtlcli.run_log import log_step, open_metrics, plain_results, write_line, write_predictions
from mtlcli.schedulers.base import Candidates, Phase, Position, Visit

SKIPS_IN_A_ROW = 10
"""Steps that `on_nan: skip` may leave out one after the other before the run stops."""


@dataclass
class Progress:
    """What a checkpoint holds besides tensors: where the run is and what it has seen."""

    step: int = 0
    cursors: list[int] = field(default_factory=list)
    epoch_sums: dict[str, float] = field(default_factory=dict)
    epoch_counts: dict[str, int] = field(default_factory=dict)
    best_step: int | None = None
    best_score: float | None = None
    evaluations_without_better: int = 0
    skipped_in_a_row: int = 0
    skipped: int = 0
    seconds: float = 0.0
    plateau: Plateau = field(default_factory=Plateau)


def open_folder(folder: Path, *, resume: bool, overwrite: bool) -> Checkpoint | None:
    """Looks at the run folder before anything is slow; the checkpoint to go on from, if there is one.

    Raises MtlError for a folder that holds something and neither flag is given, and for --overwrite of what is no run.
    """
    if resume and overwrite:
        raise MtlError("--resume and --overwrite exclude each other; give one")
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    if overwrite and not ((folder / "config.yaml").is_file() or (folder / "run.json").is_file()):
        raise MtlError(
            f"--overwrite: {folder} is not a run folder, so nothing in it is deleted; choose another --output"
        )
    if overwrite:
        return None
    if not resume:
        raise MtlError(
            f"--output: {folder} is not empty: add --resume to go on with that run, or --overwrite to replace it"
        )
    found, skipped = checkpoint.latest(folder / "checkpoints")
    if found is None and skipped:
        raise MtlError(*skipped, f"{folder}: no whole checkpoint to resume from; start anew with --overwrite")
    return found


def train(
    run: Prepared, folder: Path, *, command: str = "", resume_from: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:  # fmt: skip
    """Runs all steps that are left, yielding what happens. `stop` is asked after every step; True saves and ends the run.

    Raises MtlError for a loss that is not finite, a full disk or a checkpoint of other data.
    """
    config, plan, model = run.config, run.plan, run.model
    training = config.training
    progress = Progress(cursors=[0] * len(run.tasks))
    torch.manual_seed(training.seed)
    if resume_from is not None:
        progress = _restore(run, resume_from)
    elif folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # of a run that goes on: what it had found is no more what it finds
    (folder / "results.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "predictions", ignore_errors=True)
    (folder / "config.yaml").write_text(dump(config.plain()))
    if command:
        with (folder / "command.txt").open("a") as file:
            file.write(command + "\n")
    environment = run_folder.environment(run.device, training.seed)
    (folder / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")
    (folder / "plan.json").write_text(json.dumps(asdict(plan), indent=1) + "\n")
    log = open_metrics(folder / "metrics.jsonl", progress.step)
    tell = partial(run_log.tell, folder / "train.log")
    tell(
        f"started after step {progress.step} of {plan.steps} on {environment['device']} in {plan.precision}: {command}"
    )
    for note in plan.notes:
        tell(note)
    yield Started(plan, folder)
    if resume_from is not None:
        yield Notice(f"resumed from {resume_from.folder} after step {progress.step} of {plan.steps}")
    started = time.monotonic() - progress.seconds
    why = "finished"
    saved_step = progress.step if resume_from is not None else -1
    model.train()
    try:
        while progress.step < plan.steps:
            stepped = _step(run, folder, progress, log)
            yield stepped
            step = progress.step
            progress.seconds = time.monotonic() - started
            end_of_epoch = step in plan.epoch_ends
            if end_of_epoch:
                _tell_epoch(run, progress, bisect_left(plan.epoch_ends, step))
            due = (
                end_of_epoch
                if training.eval_every == "epoch"
                else step % training.eval_every == 0 or step == plan.steps
            )
            if due and run.dev:
                evaluated = _evaluate(run, progress, log)
                if evaluated.is_best:
                    _export(run, folder, progress)
                tell(
                    f"step {step}: {json.dumps(evaluated.metrics)} score {evaluated.score}{' (best so far)' if evaluated.is_best else ''}"
                )
                yield evaluated
                progress.seconds = time.monotonic() - started
            stopping = stop()
            out_of_patience = training.patience is not None and progress.evaluations_without_better >= training.patience
            if due or stopping or step == plan.steps or (training.save_every and step % training.save_every == 0):
                place = _save(run, folder, progress)
                tell(f"step {step}: saved {place}")
                yield Saved(step, place)
                saved_step = step
            if out_of_patience:
                why = "patience"
                break
            if stopping and step < plan.steps:
                why = "interrupted"
                break
    finally:
        log.close()
    if saved_step != progress.step:
        _save(run, folder, progress)
    tell(f"{why} after step {progress.step}; best step {progress.best_step}, score {progress.best_score}")
    if why == "interrupted":
        yield Finished(progress.step, progress.best_step, progress.best_score, {}, progress.seconds, why)
        return
    results = _finish(run, folder, progress, why)
    yield Finished(progress.step, progress.best_step, progress.best_score, results, progress.seconds, why)


def _step(run: Prepared, folder: Path, progress: Progress, log: TextIO) -> Stepped:
    """One optimizer update."""
    plan, names = run.plan, run.model.names
    position = Position(progress.step, plan.steps, plan.steps_per_epoch)
    phase = run.scheduler.phase(position)
    _enter(run, folder, progress, phase)
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
    scheduled = rate_factor(run.config.optimizer, progress.step - phase.start, phase.steps)
    factor = phase.lr * scheduled * progress.plateau.factor
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


def _enter(run: Prepared, folder: Path, progress: Progress, phase: Phase) -> None:
    """Freezes what the phase freezes; at its first step, starts the optimizer's averages and the rate's plateau anew, from the
    weights it asks for."""
    run.model.freeze(phase.frozen)
    if progress.step != phase.start or phase.start == 0:
        return
    run.optimizer.state.clear()
    progress.plateau = Plateau()
    if phase.weights == "best" and progress.best_step is not None:
        run.model.load_state_dict(_best(folder, progress.best_step).tensors("model"))


def _next(run: Prepared, visit: Visit) -> TaskLoss:
    batches = run.train[visit.task]
    return TaskLoss(visit.task, tuple(batches.next().to(run.device) for _ in range(visit.micro_batches)))


def _chosen(run: Prepared, visits: list[Visit], position: Position) -> list[TaskLoss]:
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
        TaskLoss(one.task, (collate(run.train[one.task].encoded, one.task, mine[chosen.numpy()]).to(run.device),))
        for one, mine, chosen in zip(pool, rows, kept, strict=True)
        if len(chosen)
    ]


def _probe(run: Prepared, position: Position) -> None:
    """The small validation that the scheduler asks for, on dev rows drawn as a function of (seed, step)."""
    probe = run.scheduler.probe(position)
    if probe is None:
        return
    losses = {}
    for task in probe.tasks:
        encoded = run.dev.get(run.model.names[task])
        if encoded is not None:
            size = min(len(encoded), probe.batches * run.train[task].batch_size)
            generator = run.scheduler.run.generator(f"probe {position.step} {task}")
            rows = torch.randperm(len(encoded), generator=generator)[:size].numpy()
            losses[task] = loss_on(run.model, collate(encoded, task, rows).to(run.device), run.autocast)
    run.scheduler.on_probe(ProbeNews(position.step + 1, losses))


def _tell_step(run: Prepared, number: int, combined: Combined, step: list[TaskLoss]) -> None:
    after = run.engine.losses_after(step) if "losses-after" in run.balancer.needs else None
    news = StepNews(number, combined.tasks.cpu(), combined.losses, combined.weights.detach(), combined.gram, after)
    for plugin in run.plugins().values():
        plugin.on_step(news)  # type: ignore[operator]
    for regularizer in run.regularizers:
        regularizer.after_step(run.model)


def _tell_epoch(run: Prepared, progress: Progress, epoch: int) -> None:
    means = {
        run.model.names.index(name): total / progress.epoch_counts[name] for name, total in progress.epoch_sums.items()
    }
    for plugin in run.plugins().values():
        plugin.on_epoch(EpochNews(epoch, means))  # type: ignore[operator]
    progress.epoch_sums, progress.epoch_counts = {}, {}


def _not_finite(
    run: Prepared, progress: Progress, step: list[TaskLoss], combined: Combined, norm: float, factor: float
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


def _evaluate(run: Prepared, progress: Progress, log: TextIO) -> Evaluated:
    """Every task that has dev rows; tells the plugins, keeps the best score and follows the loss for the learning rate."""
    metrics, losses = {}, {}
    for name, predicted in _predict_dev(run).items():
        index = run.model.names.index(name)
        targets = run.tasks[index].splits["dev"].targets
        metrics[name] = {key: one.value for key, one in measure(run.metrics[name], predicted, targets, 0).items()}
        losses[name] = predicted.loss
    score = run.selection.score(metrics, run.metrics) if run.selection is not None else None
    is_best = score is not None and (progress.best_score is None or score > progress.best_score)
    if is_best:
        progress.best_score, progress.best_step, progress.evaluations_without_better = score, progress.step, 0
    else:
        progress.evaluations_without_better += 1
    if run.config.optimizer.schedule == "plateau":
        progress.plateau.observe(losses, run.config.optimizer)
    index_of = run.model.names.index
    news = EvaluationNews(
        progress.step,
        {index_of(name): loss for name, loss in losses.items()},
        {index_of(name): values for name, values in metrics.items()},
    )
    for plugin in run.plugins().values():
        plugin.on_evaluation(news)  # type: ignore[operator]
    epoch = bisect_left(run.plan.epoch_ends, progress.step)
    line = {"kind": "evaluation", "step": progress.step, "epoch": epoch, "score": score}
    line |= {f"eval/{name}/{key}": value for name, values in metrics.items() for key, value in values.items()}
    write_line(log, line | {f"eval/{name}/loss": loss for name, loss in losses.items()})
    return Evaluated(progress.step, epoch, metrics, losses, score, is_best)


def _predict_dev(run: Prepared) -> dict[str, Predicted]:
    return {
        name: predict_rows(run.model, run.model.names.index(name), encoded, run.device, run.autocast)
        for name, encoded in run.dev.items()
    }


def _save(run: Prepared, folder: Path, progress: Progress) -> Path:
    parts: dict[str, Mapping[str, torch.Tensor]] = {
        "model": run.model.state_dict(),
        "optimizer": checkpoint.optimizer_tensors(run.optimizer),
        "random": checkpoint.random_state(),
        "plugins": {
            f"{name}/{key}": value for name, one in run.plugins().items() for key, value in one.state_dict().items()
        },
    }
    state = {"mtlcli": __version__, "progress": asdict(progress), "content": run.content()}
    place = checkpoint.save(
        folder / "checkpoints", progress.step, parts, state,
        lambda scratch: run_folder.save_tokenizer_and_config(run.encoder, scratch / "encoder"),
    )  # fmt: skip
    checkpoint.prune(folder / "checkpoints", run.config.training.keep_last, progress.best_step)
    return place


def _restore(run: Prepared, found: Checkpoint) -> Progress:
    """Puts everything where it was. Raises MtlError when the rows are not those the checkpoint was trained on."""
    state = found.state()
    now = run.content()
    changed = [name for name, content in state["content"].items() if now.get(name) != content]
    if changed or set(now) != set(state["content"]):
        names = ", ".join(sorted(set(changed) | (set(now) ^ set(state["content"]))))
        raise MtlError(
            f"{found.folder}: the rows of {names} are not those this run was trained on; give the old files or --overwrite"
        )
    run.model.load_state_dict(found.tensors("model"))
    checkpoint.restore_optimizer(run.optimizer, found.tensors("optimizer"))
    plugins = found.tensors("plugins")
    for name, plugin in run.plugins().items():
        plugin.load_state_dict(
            {key.removeprefix(f"{name}/"): value for key, value in plugins.items() if key.startswith(f"{name}/")}
        )
    values = state["progress"]
    progress = Progress(**values | {"plateau": Plateau(**values.get("plateau", {}))})
    for batches, cursor in zip(run.train, progress.cursors, strict=True):
        batches.cursor = cursor
    checkpoint.restore_random_state(found.tensors("random"))
    return progress


def _export(run: Prepared, folder: Path, progress: Progress) -> None:
    """encoder/, heads.safetensors and run.json from the weights as they are."""
    config = run.config
    facts: dict[str, Any] = {
        "mtlcli": __version__,
        "step": progress.step,
        "steps": run.plan.steps,
        "score": progress.best_score,
        "select_by": config.training.select_by,
        "pooling": config.encoder.pooling,
        "layer": config.encoder.layer,
        "max_length": config.encoder.max_length,
        "tasks": {
            fact.name: run_folder.task_record(
                config,
                fact,
                task.splits["train"].columns.texts,
                task.splits["train"].columns.label,
                tuple(run.metrics[fact.name]),
            )
            for fact, task in zip(run.facts, run.tasks, strict=True)
        },
        "config": config.plain(),
    }
    run_folder.export(folder, run.model, run.encoder, facts)


def _best(folder: Path, step: int) -> Checkpoint:
    """The best checkpoint of the run. Raises MtlError where it is damaged."""
    place = folder / "checkpoints" / f"step-{step}"
    problem = checkpoint.damage(place)
    if problem is not None:
        raise MtlError(f"{place}: the best checkpoint is damaged: {problem}")
    return Checkpoint(place, step)


def _finish(run: Prepared, folder: Path, progress: Progress, why: str) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Puts the best weights back, measures them with intervals, and writes results and predictions."""
    best = progress.best_step
    if best is not None and best != progress.step:
        run.model.load_state_dict(_best(folder, best).tensors("model"))
    ended = replace(progress, step=progress.step if best is None else best)
    _export(run, folder, ended)
    results: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, predicted in _predict_dev(run).items():
        index = run.model.names.index(name)
        split = run.tasks[index].splits["dev"]
        results[name] = {"dev": measure(run.metrics[name], predicted, split.targets, 1000)}
        write_predictions(
            folder / "predictions" / f"{name}.dev.jsonl",
            run.facts[index].labels,
            predicted,
            split.lines.tolist(),
            split.targets,
        )
    summary = {
        "why": why, "steps": progress.step, "selected_step": ended.step, "select_by": run.config.training.select_by,
        "score": progress.best_score, "seconds": round(progress.seconds, 1), "skipped_steps": progress.skipped,
        "tasks": plain_results(results),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
    return results
