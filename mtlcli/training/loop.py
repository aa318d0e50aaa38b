"""The training loop: steps, evaluations, checkpoints, and at the end the best model.

`train` yields events, which the caller prints, and writes the files of the run.
"""

import json
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import torch

from mtlcli.config.evaluation_sets import in_words
from mtlcli.distributed.world import world
from mtlcli.errors import MtlError, one_of
from mtlcli.evaluation.measure import measure
from mtlcli.evaluation.sets import mean_values, with_means
from mtlcli.export.card import write_card
from mtlcli.model.frozen import Features
from mtlcli.model.predict import NotFinite
from mtlcli.plugin import EvaluationResult
from mtlcli.registry import plugin_call
from mtlcli.runs.card_file import CARD
from mtlcli.runs.checkpoint import Checkpoint
from mtlcli.runs.folder import RunFolder, claim
from mtlcli.runs.names import METRICS
from mtlcli.runs.results import Results, read_results
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.training.dev import DevPredictions, predict_dev
from mtlcli.training.events import Evaluated, Event, Finished, Notice, Saved, Started
from mtlcli.training.files import RunFiles
from mtlcli.training.log import write_line
from mtlcli.training.setup import TrainingRun
from mtlcli.training.state import Progress, load_best, restore
from mtlcli.training.step import end_epoch, enter_stage, take_step


def train(
    run: TrainingRun, folder: RunFolder | Path, *, command: str = "", resume_from: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:  # fmt: skip
    """Train for the remaining steps and yield the events of the run.

    Args:
        run: the run, ready for its first step.
        folder: the folder that `claim` opened; or a path, which is claimed while the run trains.
        command: the command that started the run, for command.txt.
        resume_from: with a path, the checkpoint to resume from; a claimed folder knows its own.
        stop: called after every step; True saves and ends the run.

    Raises:
        MtlError: a loss or an evaluation is not finite, the disk is full, or the checkpoint is of other data.
    """
    # Every pass of an encoder that is divided exchanges its layers, also in evaluation.
    with run.world.in_passes() if run.engine.is_sharded else nullcontext():
        if isinstance(folder, Path):
            with claim(folder, resume=resume_from is not None) as claimed:
                yield from _train(run, claimed, command, stop)
        else:
            yield from _train(run, folder, command, stop)


def _train(run: TrainingRun, place: RunFolder, command: str, stop: Callable[[], bool]) -> Iterator[Event]:
    plan, model, training, folder = run.plan, run.model, run.config.training, place.path
    progress = Progress(cursors=[0] * len(run.tasks))
    # Seeded again, because setup draws a number of values that depends on the plugins.
    torch.manual_seed(training.seed)
    if place.checkpoint is not None:
        progress = restore(run, place.checkpoint)
    # A complete run that is resumed with more steps or patience goes past this point and trains.
    if place.is_complete and _ending(run, progress) is not None:
        yield end_of_complete(place)
        return
    if progress.step > plan.steps:
        raise MtlError(
            f"--resume: {folder} was trained for {progress.step} steps, but this configuration has only {plan.steps}; set "
            "--epochs or --steps to at least their old values"
        )
    files = RunFiles(run, place)
    remaining, damaged_lines = files.start(progress, command)
    yield Started(plan, folder)
    if place.checkpoint is not None:
        files.prune(progress)
        yield Notice(f"resumed from {place.checkpoint.folder} after step {progress.step} of {plan.steps}")
    if remaining:
        yield Notice(f"{folder}: kept, because no run wrote it: {one_of(remaining)}")
    if damaged_lines:
        yield Notice(f"{folder / METRICS}: {damaged_lines} damaged lines were removed", is_warning=True)
    started = time.monotonic() - progress.seconds
    saved_step = progress.step if place.checkpoint is not None else None
    exchange = run.engine.exchange
    if exchange is not None:
        # Evaluated in the exchange of every step, so that all processes stop after the same step.
        exchange.wants_to_stop = stop
    model.train()
    try:
        # Decided from the saved state alone, so that a run killed after its last step does not make an extra one.
        while (why := _ending(run, progress)) is None:
            for text in enter_stage(run, folder, progress):
                files.tell(text)
                yield Notice(text)
            stepped = take_step(run, progress, files.log, saved_step)
            yield stepped
            step = progress.step
            progress.seconds = time.monotonic() - started
            end_of_epoch = step in plan.epoch_ends
            # Before the evaluation, as the order of the plugins' hooks promises.
            if end_of_epoch:
                end_epoch(run, progress, bisect_left(plan.epoch_ends, step))
            # The last step is always evaluated, also if `eval_every` does not divide the number of steps.
            due = (
                end_of_epoch
                if training.eval_every == "epoch"
                else step % training.eval_every == 0 or step == plan.steps
            )
            if due and run.dev:
                predictions = _predict_dev(run, progress, run.kept.dev)
                evaluated = _evaluate(run, progress, predictions, files.log)
                # Exported at once, so that an interrupted run already has a usable model.
                if evaluated.is_best:
                    files.export(progress, predictions)
                files.tell(
                    f"step {step}: {json.dumps(evaluated.metrics)} score {evaluated.score}{' (best so far)' if evaluated.is_best else ''}"
                )
                yield evaluated
                progress.seconds = time.monotonic() - started
            # Several processes have agreed on it within the step.
            stopping = stop() if exchange is None else exchange.stops
            if due or stopping or step == plan.steps or (training.save_every and step % training.save_every == 0):
                saved = files.save(progress)
                files.tell(f"step {step}: saved {saved}")
                yield Saved(step, saved)
                saved_step = step
            # A request that arrives during the last step does not interrupt: the run is finished.
            if stopping and _ending(run, progress) is None:
                why = "interrupted"
                break
    finally:
        files.close()
        run.kept.forget()
    # Nothing may be written if another process has taken the folder over.
    place.check()
    if saved_step != progress.step:
        files.save(progress)
    files.tell(f"{why} after step {progress.step}; best step {progress.best_step}, score {progress.best_score}")
    if why == "interrupted":
        yield Finished(progress.step, progress.best_step, progress.best_score, {}, progress.seconds, why, folder)
        return
    results, notes = _finish(run, files, progress, why)
    for note in notes:
        files.tell(note)
        yield Notice(note)
    yield Finished(progress.step, progress.best_step, progress.best_score, results, progress.seconds, why, folder)


def _ending(run: TrainingRun, progress: Progress) -> str | None:
    """Return why a run is over after its last step; None if steps remain."""
    patience = run.config.training.patience
    if patience is not None and progress.evaluations_without_better >= patience:
        return "patience"
    return "finished" if progress.step >= run.plan.steps else None


def end_of_complete(place: RunFolder) -> Finished:
    """Return the event for a run that was already complete, from its results, which other machines may not have."""
    results = world().same(lambda: read_results(place.path))
    return Finished(
        results.steps or 0, results.selected_step, results.score, results.tasks, results.seconds or 0.0, "unchanged", place.path
    )  # fmt: skip


def _evaluate(run: TrainingRun, progress: Progress, predictions: DevPredictions, log: TextIO) -> Evaluated:
    """Measure every task that has dev rows, call the plugins' hooks, keep the best score, and update the plateau schedule.

    Raises:
        MtlError: an output, a loss or a metric is not finite, whatever `training.on_nan` says: the model is of no use.
    """
    metrics, losses, by_set = run.world.same(lambda: _measure(run, progress, predictions))
    score = run.selection.score(metrics, run.metrics) if run.selection is not None else None
    # Of equal scores, the earliest step is kept.
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
    # `progress.step` counts completed steps: after the last step of an epoch it equals the end of that epoch.
    epoch = bisect_left(run.plan.epoch_ends, progress.step)
    line: dict[str, Any] = {"kind": "evaluation", "step": progress.step, "epoch": epoch, "score": score}
    line |= {f"eval/{name}/{key}": value for name, values in metrics.items() for key, value in values.items()}
    line |= {f"eval/{name}/loss": loss for name, loss in losses.items()}
    for name, sets in by_set.items():
        line |= {f"eval/{name}/{part}/{key}": value for part, of_set in sets.items() for key, value in of_set.items()}
    return Evaluated(progress.step, epoch, metrics, losses, score, is_best, by_set, write_line(log, line))


Values = dict[str, dict[str, float]]


def _measure(
    run: TrainingRun, progress: Progress, predictions: DevPredictions
) -> tuple[Values, dict[str, float], dict[str, Values]]:
    """Return metrics and mean loss of each task with dev rows, and metrics by set of tasks with several."""
    metrics: Values = {}
    losses: dict[str, float] = {}
    by_set: dict[str, Values] = {}
    for name, by_split in predictions.rows.items():
        index = run.model.names.index(name)
        values = {}
        for split, predicted in by_split.items():
            labeled = run.tasks[index].splits[split]
            # Without resamples: only the final results have intervals.
            measured = measure(predictions.metrics[name], predicted.rows, labeled.gold, 0, weights=labeled.weights)
            values[split] = {key: estimate.value for key, estimate in measured.items()} | {"loss": predicted.loss}
            _must_be_finite(run, progress, index, split, values[split])
        metrics[name] = mean_values([values[split] for split in run.config.tasks[name].selecting_splits()])
        losses[name] = metrics[name].pop("loss")
        if "dev" not in values:
            by_set[name] = {split.partition(".")[2]: of_split for split, of_split in values.items()}
    return metrics, losses, by_set


def _predict_dev(
    run: TrainingRun, progress: Progress, features: Mapping[int, Mapping[str, Features]]
) -> DevPredictions:
    """Return the predictions for the dev rows. Raise MtlError if an output is not finite."""
    try:
        return predict_dev(run, features)
    except NotFinite as error:
        raise _diverged(run, progress, str(error)) from error


def _must_be_finite(run: TrainingRun, progress: Progress, task: int, split: str, numbers: Mapping[str, float]) -> None:
    """Raise MtlError for a metric or loss of an evaluation that is not finite; rows without a known label have no loss."""
    has_labels = run.tasks[task].target.known(run.tasks[task].splits[split].gold).any()
    for name, number in numbers.items():
        if not math.isfinite(number) and (name != "loss" or has_labels):
            raise _diverged(run, progress, f"{run.model.names[task]}: {name} on {in_words(split)} is {number:g}")


def _diverged(run: TrainingRun, progress: Progress, problem: str) -> MtlError:
    best = "" if progress.best_step is None else f"; the folder keeps the model of step {progress.best_step}"
    return MtlError(
        f"step {progress.step}: {problem}; start again with a lower learning rate than {run.config.optimizer.lr:g} (--lr){best}"
    )


def _finish(
    run: TrainingRun, files: RunFiles, progress: Progress, why: str
) -> tuple[dict[str, dict[str, dict[str, Estimate]]], list[str]]:
    """Restore the best weights, evaluate them with confidence intervals, and write results and predictions.

    Returns:
        The results, and lines about what was tuned on dev.
    """
    best = progress.best_step
    if best is not None and best != progress.step:
        load_best(run, files.folder, best)
    ended = replace(progress, step=progress.step if best is None else best)
    if not all(bool(parameter.isfinite().all()) for parameter in run.model.parameters()):
        # Without dev rows no evaluation has found this out.
        raise _diverged(run, progress, "weights of the model are NaN or infinite; training has diverged")
    # Without cached features: the best weights may be those of an earlier stage, in which the encoder differed.
    predictions = _predict_dev(run, ended, {})
    # A run without dev rows has exported nothing before.
    files.export(ended, predictions)
    if not files.writes:
        return {}, []
    results: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, by_split in predictions.rows.items():
        index = run.model.names.index(name)
        splits = run.tasks[index].dev
        measured = {}
        for split_name, predicted in by_split.items():
            split = splits[split_name]
            measured[split_name] = measure(
                predictions.metrics[name], predicted.rows, split.gold, 1000, split.groups, split.weights
            )
        files.write_predictions(name, predictions)
        groups = {split_name: split.groups for split_name, split in splits.items()}
        results[name] = with_means(measured, groups, run.config.tasks[name].selecting_splits())
    summary = Results(
        results, tuple(name for name, section in run.config.tasks.items() if section.auxiliary) or None, why,
        progress.step, ended.step, run.config.training.select_by, progress.best_score, round(progress.seconds, 1),
        progress.skipped,
    )  # fmt: skip
    notes = predictions.notes()
    # The results come last: a run that has them is complete, and nothing is written when it is resumed.
    if not write_card(files.folder, summary):
        notes.append(f"{files.folder / CARD}: kept, because it was changed by hand; mtl card --overwrite replaces it")
    files.write_results(summary)
    return results, notes
