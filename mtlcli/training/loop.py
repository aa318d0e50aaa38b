"""The loop of a run: steps, evaluations, checkpoints, and at the end the best model.

`train` yields what happens and writes the run folder; the caller prints.
"""

import json
import shutil
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from mtlcli import __version__
from mtlcli.config.layers import dump
from mtlcli.devices import describe_environment
from mtlcli.evaluation.measure import measure
from mtlcli.model.frozen import Features
from mtlcli.model.predict import Predicted, predict_rows
from mtlcli.plugin import EvaluationResult
from mtlcli.registry import plugin_call
from mtlcli.runs.checkpoint import Checkpoint
from mtlcli.runs.record import origin_record, task_record
from mtlcli.runs.results import plain_results, write_predictions
from mtlcli.runs.saved_model import export
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.training.events import Evaluated, Event, Finished, Notice, Saved, Started
from mtlcli.training.log import log_line, open_metrics, write_line
from mtlcli.training.setup import TrainingRun
from mtlcli.training.state import Progress, best_checkpoint, restore, save
from mtlcli.training.step import end_epoch, enter_stage, take_step


def train(
    run: TrainingRun, folder: Path, *, command: str = "", resume_from: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:  # fmt: skip
    """Take all remaining steps, yielding what happens.

    Args:
        stop: called after every step; True saves a checkpoint and ends the run.

    Raises:
        MtlError: a loss is not finite, the disk is full, or the checkpoint was trained on other rows.
    """
    config, plan, model = run.config, run.plan, run.model
    training = config.training
    progress = Progress(cursors=[0] * len(run.tasks))
    torch.manual_seed(training.seed)
    if resume_from is not None:
        progress = restore(run, resume_from)
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
    environment = describe_environment(run.device, training.seed)
    (folder / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")
    (folder / "plan.json").write_text(json.dumps(asdict(plan), indent=1) + "\n")
    log = open_metrics(folder / "metrics.jsonl", progress.step)
    tell = partial(log_line, folder / "train.log")
    tell(
        f"started after step {progress.step} of {plan.steps} on {environment['device']} in {plan.precision}: {command}"
    )
    for line in (*plan.notes, *plan.warnings):
        tell(line)
    yield Started(plan, folder)
    if resume_from is not None:
        yield Notice(f"resumed from {resume_from.folder} after step {progress.step} of {plan.steps}")
    started = time.monotonic() - progress.seconds
    why = "finished"
    saved_step = progress.step if resume_from is not None else None
    model.train()
    try:
        while progress.step < plan.steps:
            for text in enter_stage(run, folder, progress):
                tell(text)
                yield Notice(text)
            stepped = take_step(run, progress, log, saved_step)
            yield stepped
            step = progress.step
            progress.seconds = time.monotonic() - started
            end_of_epoch = step in plan.epoch_ends
            if end_of_epoch:
                end_epoch(run, progress, bisect_left(plan.epoch_ends, step))
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
                place = save(run, folder, progress)
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
        run.kept.forget()
    if saved_step != progress.step:
        save(run, folder, progress)
    tell(f"{why} after step {progress.step}; best step {progress.best_step}, score {progress.best_score}")
    if why == "interrupted":
        yield Finished(progress.step, progress.best_step, progress.best_score, {}, progress.seconds, why, folder)
        return
    results = _finish(run, folder, progress, why)
    yield Finished(progress.step, progress.best_step, progress.best_score, results, progress.seconds, why, folder)


def _evaluate(run: TrainingRun, progress: Progress, log: TextIO) -> Evaluated:
    """Evaluate every task that has dev rows, call the plugins' hooks, keep the best score, and update the plateau schedule."""
    metrics, losses = {}, {}
    for name, predicted in _predict_dev(run, run.kept.dev).items():
        index = run.model.names.index(name)
        measured = measure(run.metrics[name], predicted.rows, run.tasks[index].splits["dev"].gold, 0)
        metrics[name] = {key: estimate.value for key, estimate in measured.items()}
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
    result = EvaluationResult(
        progress.step,
        {index_of(name): loss for name, loss in losses.items()},
        {index_of(name): values for name, values in metrics.items()},
    )
    for plugin in run.plugins().values():
        with plugin_call(plugin, "on_evaluation", "nothing in return"):
            plugin.on_evaluation(result)
    epoch = bisect_left(run.plan.epoch_ends, progress.step)
    line = {"kind": "evaluation", "step": progress.step, "epoch": epoch, "score": score}
    line |= {f"eval/{name}/{key}": value for name, values in metrics.items() for key, value in values.items()}
    write_line(log, line | {f"eval/{name}/loss": loss for name, loss in losses.items()})
    return Evaluated(progress.step, epoch, metrics, losses, score, is_best)


def _predict_dev(run: TrainingRun, features: Mapping[int, Features]) -> dict[str, Predicted]:
    predictions = {}
    for name, tokenized in run.dev.items():
        task = run.model.names.index(name)
        predictions[name] = predict_rows(run.model, task, tokenized, run.device, run.autocast, features.get(task))
    return predictions


def _export(run: TrainingRun, folder: Path, progress: Progress) -> None:
    """Write encoder/, heads.safetensors and run.json from the current weights."""
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
            fact.name: task_record(
                config,
                fact,
                task.splits["train"].columns.texts,
                task.splits["train"].columns.label,
                tuple(run.metrics[fact.name]),
            )
            for fact, task in zip(run.facts, run.tasks, strict=True)
        },
        "architecture": origin_record(config.architecture),
        "config": config.plain(),
    }
    export(folder, run.model, run.encoder, facts)


def _finish(run: TrainingRun, folder: Path, progress: Progress, why: str) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Restore the best weights, evaluate them with intervals, and write results and predictions."""
    best = progress.best_step
    if best is not None and best != progress.step:
        run.model.load_state_dict(best_checkpoint(folder, best).tensors("model"))
    ended = replace(progress, step=progress.step if best is None else best)
    _export(run, folder, ended)
    results: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, predicted in _predict_dev(run, {}).items():
        index = run.model.names.index(name)
        split = run.tasks[index].splits["dev"]
        results[name] = {"dev": measure(run.metrics[name], predicted.rows, split.gold, 1000)}
        write_predictions(
            folder / "predictions" / f"{name}.dev.jsonl",
            run.facts[index].target,
            predicted.rows,
            split.lines.tolist(),
            split.gold,
        )
    summary = {
        "why": why, "steps": progress.step, "selected_step": ended.step, "select_by": run.config.training.select_by,
        "score": progress.best_score, "seconds": round(progress.seconds, 1), "skipped_steps": progress.skipped,
        "tasks": plain_results(results),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
    return results
