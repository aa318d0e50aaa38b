"""Measuring a saved run on labelled rows: its own, those of another folder, or those of a file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtlcli import registry
from mtlcli.config import TaskConfig
from mtlcli.data.encoding import Encoded
from mtlcli.data.loading import LoadedTask, declared_target, find_source, read_split, target_is_open
from mtlcli.data.reading import FileSource, format_of
from mtlcli.data.sources import Source
from mtlcli.devices import autocast, find_device, find_precision
from mtlcli.errors import MtlError, one_of
from mtlcli.evaluation import make_metrics, measure, predict_rows
from mtlcli.metrics.bootstrap import Estimate
from mtlcli.plugin import TaskFacts
from mtlcli.preparing import encode_split
from mtlcli.run_folder import SavedRun, load_run
from mtlcli.tasks.base import Classes, Score, Target, Task
from mtlcli.training import write_predictions

SPLITS = ("dev", "test", "train")


def judge(
    folder: Path, tasks: Sequence[tuple[str, list[str]]] = (), *, data: str | None = None, splits: Sequence[str] | None = None,
    resamples: int = 1000, device: str = "auto", precision: str = "fp32",
) -> tuple[dict[str, dict[str, dict[str, Estimate]]], list[str]]:  # fmt: skip
    """Metrics by task, split and name, and notes about the rows. `tasks` are (name, [file]) pairs; without any, all tasks of
    the run; a file stands for the split `dev` unless one is named.

    Raises MtlError where a task has no rows to measure on.
    """
    for split in splits or ():
        if split not in SPLITS:
            raise MtlError(f"--split {split}: expected one of {one_of(SPLITS)}")
    run, notes = load_run(folder)
    place = find_device(device)
    context = autocast(place, find_precision(precision, place))
    run.model.to(place)
    results: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, files in tasks or [(facts.name, []) for facts in run.facts]:
        index = run.task(name)
        facts = run.facts[index]
        config = run.config.tasks[name]
        task: Task = registry.load("tasks", config.name, f"tasks.{name}")(name, **config.options)
        metrics = make_metrics(task.metrics, facts, f"tasks.{name}")
        if len(files) > 1:
            raise MtlError(f"--task {name}: one file is measured at a time, found {len(files)}")
        sources = _sources(run, config, task, files, data, splits)
        if not sources:
            notes.append(f"{name}: no labelled rows of {one_of(splits or SPLITS[:2])}")
            continue
        for split, source in sources.items():
            target = fitted_target(config, task, facts)
            policy = config.on_bad_row or task.on_bad_row
            rows, _ = read_split(task, config, split, source, target, policy)
            notes += rows.warnings
            loaded = LoadedTask(task, config, target, {split: rows})
            encoded: Encoded = encode_split(
                loaded.splits[split], run.encoder, config.encoding or "single", run.config.encoder.max_length, None
            )
            predicted = predict_rows(run.model, index, encoded, place, context)
            results.setdefault(name, {})[split] = measure(metrics, predicted, rows.targets, resamples)
            if not files and data is None:
                write_predictions(
                    folder / "predictions" / f"{name}.{split}.jsonl",
                    facts.labels,
                    predicted,
                    rows.lines.tolist(),
                    rows.targets,
                )
    if not results:
        raise MtlError(
            f"{folder}: nothing to measure: {'; '.join(notes)}; give rows with --task NAME=FILE or --data FOLDER"
        )
    return results, notes


def fitted_target(config: TaskConfig, task: Task, facts: TaskFacts) -> Target:
    """The target as it was when the run was trained."""
    target = declared_target(config, task, f"tasks.{task.name}")
    if isinstance(target, Classes) and target_is_open(target) and facts.labels is not None:
        return Classes({label: label for label in facts.labels})
    if isinstance(target, Score) and facts.score_range is not None:
        return replace(target, low=facts.score_range[0], high=facts.score_range[1])
    return target


def _sources(
    run: SavedRun, config: TaskConfig, task: Task, files: list[str], data: str | None, splits: Sequence[str] | None
) -> Mapping[str, Source]:
    if files:
        split = (splits or ("dev",))[0]
        return {split: FileSource(files[0], format=format_of(files[0], header=config.header))}
    if data is not None:
        config = config.model_copy(update=dict.fromkeys(("train", "dev", "test")))
    found: dict[str, Any] = {}
    for split in splits or SPLITS[:2]:
        source = find_source(config, task, split, data=data or run.config.data, sample=run.config.sample)
        if source is not None:
            found[split] = source
    return found
