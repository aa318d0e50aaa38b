"""Evaluate a run or an ensemble on labeled rows: its own, those of another folder, or those of a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtlcli.config.evaluation_sets import kind_of
from mtlcli.config.schema import Config, TaskConfig
from mtlcli.data.readers import FileSource, format_of
from mtlcli.data.sources import Source
from mtlcli.data.splits import Split, read_split, selected_rows
from mtlcli.data.task_sources import find_source, with_filter
from mtlcli.devices import autocast, find_device, find_precision
from mtlcli.distributed.world import world
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.evaluation.measure import make_metrics, measure, metrics_of
from mtlcli.evaluation.sets import with_means
from mtlcli.inference.predictor import RunInfo, open_run
from mtlcli.metrics.base import Metric
from mtlcli.runs.names import ENSEMBLE, predictions_path
from mtlcli.runs.results import add_results, write_predictions
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.statistics.groups import RowGroups
from mtlcli.statistics.per_class import ClassScores, per_class
from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Arrays

SPLITS = ("dev", "test", "train")
PRECISIONS = ("auto", "fp32", "bf16")
CHANGEABLE = (
    "text", "label", "header", "format", "on_bad_row", "no_label", "unlabeled", "where", "group", "weight", "metrics", "weighted_metrics",
)  # fmt: skip
"""Keys of a task that may change for an evaluation: they say how rows are read and measured, and do not affect the model."""
ALTERING = frozenset({"where", "weight", "metrics", "weighted_metrics"})
"""Those whose results are not those of the run, so that they are not stored with it."""


@dataclass(frozen=True)
class EvaluationRows:
    """Hold labeled rows of one split of one task (its index), and the metrics to compute on them."""

    task: int
    split: Split
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class Evaluation:
    """Metrics by task, split and name, and notes about the rows: `evaluation["sst"]["dev"]["accuracy"].low`.

    Of a task with several dev sets, each is a split of its own (`evaluation["mnli"]["dev.matched"]`), and `dev` is their mean.

    Attributes:
        classes: scores of each class by task and split, the class with the most labels first; empty unless they were asked for, and
            without tasks that have no classes.
    """

    results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    notes: tuple[str, ...]
    classes: Mapping[str, Mapping[str, tuple[ClassScores, ...]]] = field(default_factory=dict)

    def __getitem__(self, task: str) -> Mapping[str, Mapping[str, Estimate]]:
        return self.results[task]


def evaluate(
    folder: Path, tasks: Sequence[tuple[str, list[str]]] = (), *, data: str | None = None, splits: Sequence[str] | None = None,
    changes: Sequence[tuple[Sequence[Any], Any]] = (), resamples: int = 1000, device: str = "auto", precision: str = "fp32",
    by_class: bool = False,
) -> Evaluation:  # fmt: skip
    """Evaluate on the run's own rows or on others, and write predictions for its own rows to its folder.

    The results of an ensemble on its own rows are written too. With several processes each predicts a part of the rows; the first one
    measures and writes, and the others return no results.

    Args:
        folder: folder of a run or an ensemble.
        tasks: (name, files) pairs with no file or one, whose rows are reported as those of `splits`, or as `dev` without one;
            all tasks of the run but auxiliary ones where it is empty.
        data: folder with the files that the tasks expect, in place of the run's own.
        splits: `dev`, `test`, `train`, or a set such as `dev.matched`; without any, dev, and test if there is one.
        changes: (("tasks", name, key), value) pairs with a key of CHANGEABLE, for rows that are laid out unlike those of
            training.
        resamples: bootstrap resamples.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: `auto`, `fp32` or `bf16`.
        by_class: compute the scores of each class, too.

    Raises:
        MtlError: an argument is wrong, rows cannot be read (all of them, before the model is loaded), or there are none.
    """
    for name in splits or ():
        check_split(name)
    if precision not in PRECISIONS:
        raise MtlError(f'--precision: found "{precision}": expected one of {one_of(PRECISIONS)}')
    outline, together = open_run(folder), world()
    place = find_device(device, None if together.is_alone else together.launch.local_rank)
    precision = find_precision(precision, place)
    context = autocast(place, precision)
    outline.check_installed()
    evaluated, notes = read_rows(outline, tasks, data, splits, changes, precision)
    # After all rows are read, so that an error in them is reported before the slow part.
    predictor, warnings = outline.load(place, {rows.task for rows in evaluated})
    notes = [*outline.notes, *warnings, *notes]
    results: dict[str, dict[str, dict[str, Estimate]]] = {}
    groups: dict[str, dict[str, RowGroups | None]] = {}
    classes: dict[str, dict[str, tuple[ClassScores, ...]]] = {}
    altered = {path[1] for path, _ in changes if path[-1] in ALTERING} | {name for name, files in tasks if files}
    # Predictions from a shared pass, kept for the tasks that follow.
    waiting: dict[tuple[int, str], Arrays] = {}
    for rows in evaluated:
        facts, split = predictor.facts[rows.task], rows.split
        if (rows.task, split.name) not in waiting:
            # One pass of the encoder serves all tasks with these rows.
            same = {other.task: other.split for other in evaluated if _reads_alike(other.split, split)}
            predictions = predictor.on_same_rows(same, place, context, together)
            waiting |= {(task, split.name): of_task for task, of_task in predictions.items()}
        predicted = waiting.pop((rows.task, split.name))
        # All processes take part in the passes above, even though only the first one uses the result.
        if not together.is_main:
            continue
        measured = measure(rows.metrics, predicted, split.gold, resamples, split.groups, split.weights)
        results.setdefault(facts.name, {})[split.name] = measured
        groups.setdefault(facts.name, {})[split.name] = split.groups
        scores = None
        if by_class:
            scores = per_class(
                facts.target, predicted, split.gold, groups=split.groups, weights=split.weights, resamples=resamples
            )
        if scores is not None:
            classes.setdefault(facts.name, {})[split.name] = scores
        if facts.name not in altered and data is None:
            path = predictions_path(folder, facts.name, split.name)
            try:
                write_predictions(
                    path, facts.target, predicted, split.lines.tolist(), split.gold, split.hashes, split.groups,
                    split.weights,
                )  # fmt: skip
            except MtlError as error:
                # A note and no error: in a read-only folder the metrics are still of use.
                notes += error.lines
    for name, by_split in results.items():
        selecting = outline.config(outline.task(name)).tasks[name].selecting_splits()
        results[name] = with_means(by_split, groups[name], selecting)
    to_store = {
        name: by_split
        for name, by_split in results.items()
        if name not in altered and data is None and name not in outline.auxiliary
    }
    if to_store and (folder / ENSEMBLE).is_file():  # a run wrote its results when it ended
        try:
            add_results(folder, to_store, sorted(outline.auxiliary))
        except MtlError as error:
            notes += error.lines
    if by_class:
        without = [name for name in results if name not in classes]
        notes += [f"{name}: has no classes, so no scores of classes" for name in without]
    return Evaluation(results, tuple(notes), classes)


def read_rows(
    outline: RunInfo, tasks: Sequence[tuple[str, list[str]]], data: str | None, splits: Sequence[str] | None,
    changes: Sequence[tuple[Sequence[Any], Any]], precision: str,
) -> tuple[list[EvaluationRows], list[str]]:  # fmt: skip
    """Return the rows of all tasks, and notes about them. The arguments are those of `evaluate`, and the precision of predictions.

    Raises:
        MtlError: the errors of all tasks at once.
    """
    folder, names = outline.folder, [facts.name for facts in outline.facts]
    if errors := [f'{folder}: no task "{name}"{suggest(name, names)}' for name, _ in tasks if name not in names]:
        raise MtlError(*errors)
    if twice := [name for index, (name, _) in enumerate(tasks) if name in dict(tasks[:index])]:
        raise MtlError(f"--task {twice[0]}: the task is named twice; evaluate one file after the other")
    configs = {name: outline.config(index) for index, name in enumerate(names)}
    sections = apply_changes({name: config.tasks[name] for name, config in configs.items()}, changes)
    evaluated: list[EvaluationRows] = []
    notes: list[str] = []
    auxiliary = outline.auxiliary
    if not tasks and auxiliary:
        notes.append(
            f"auxiliary, and so left out without --task: {one_of(name for name in names if name in auxiliary)}"
        )
    for name, files in tasks or [(name, []) for name in names if name not in auxiliary]:
        facts, section = outline.facts[names.index(name)], sections[name]
        try:
            task: Task = section.make(name)
            metrics = make_metrics(
                metrics_of(section, task, facts.target),
                facts,
                f"tasks.{name}.metrics",
                precision,
                weighted=section.weighted_metrics,
            )
            sources = _sources(configs[name], section, task, files, data, splits)
            for split, source in sources.items():
                # Another file or folder is evaluated as a whole, whatever share of the training rows was held out.
                selected = None
                if not files and data is None:
                    stored = configs[name].tasks[name]
                    _must_read_alike(name, stored, section, split)
                    # By the stored section, because a group that --set names would hold out other rows.
                    selected = selected_rows(stored, task, split, source)
                policy = section.on_bad_row or task.on_bad_row
                rows = read_split(task, section, split, source, facts.target, policy, rows=selected)
                notes += [*rows.notes, *rows.warnings]
                evaluated.append(EvaluationRows(names.index(name), rows, metrics))
        except MtlError as error:
            errors.extend(error.lines)
            continue
        if not sources:
            notes.append(f"{name}: no labeled rows of {one_of(splits or SPLITS[:2])}")
    if errors:
        # Tasks that read the same file have the same errors.
        raise MtlError(*dict.fromkeys(errors))
    sets = [split for section in sections.values() for kind in SPLITS[:2] for split in section.splits_of(kind)]
    if missing := [split for split in splits or () if "." in split and split not in sets]:
        known = [split for split in dict.fromkeys(sets) if "." in split]
        raise MtlError(*(f"--split {split}: no task has this set{suggest(split, known)}" for split in missing))
    if not evaluated:
        raise MtlError(
            f"{folder}: nothing to evaluate: {'; '.join(notes)}; give rows with --task NAME=FILE or --data FOLDER"
        )
    return evaluated, notes


def _must_read_alike(name: str, stored: TaskConfig, section: TaskConfig, split: str) -> None:
    """Raise MtlError where a share of the training rows is evaluated and --set changes which rows the file has."""
    changed = [key for key in ("text", "header", "format", "where") if getattr(stored, key) != getattr(section, key)]
    if changed and stored.dev_share is not None and split in ("train", "dev"):
        raise MtlError(
            f"--set tasks.{name}.{changed[0]}: dev: {stored.dev} holds out training rows as the run has read them, and other rows could be "
            f"ones it has trained on; evaluate a file: --task {name}=FILE"
        )


def _reads_alike(split: Split, other: Split) -> bool:
    """Return whether splits of two tasks have the same name, texts and encoding, so that one pass of the encoder serves both."""
    return (split.name, split.texts_digest, split.encoding) == (other.name, other.texts_digest, other.encoding)


def check_split(split: str) -> None:
    """Raise MtlError for a name that is neither a split nor that of an evaluation set."""
    kind, dot, name = split.partition(".")
    if kind not in SPLITS or (dot and (not name or kind == "train")):
        raise MtlError(f"--split {split}: expected one of {one_of(SPLITS)}, or a set such as dev.NAME")


def apply_changes(
    sections: Mapping[str, TaskConfig], changes: Sequence[tuple[Sequence[Any], Any]]
) -> dict[str, TaskConfig]:
    """Return the sections of the tasks with other ways of reading rows.

    Raises:
        MtlError: a change is of another key, of an unknown task, or invalid.
    """
    tasks = dict(sections)
    for path, value in changes:
        where = f"--set {'.'.join(map(str, path))}"
        if len(path) != 3 or path[0] != "tasks" or path[2] not in CHANGEABLE:
            raise MtlError(f"{where}: a finished run can change tasks.NAME.KEY alone, KEY being {one_of(CHANGEABLE)}")
        if path[1] not in tasks:
            raise MtlError(f'{where}: no task "{path[1]}"{suggest(path[1], tasks)}')
        try:
            # By alias, as in a recipe: the plugin of a task is `kind` there and `name` in the model.
            values = tasks[path[1]].model_dump(by_alias=True) | {path[2]: value}
            tasks[path[1]] = TaskConfig.model_validate(values)
        except ValidationError as error:
            raise MtlError(f"{where}: found {value!r}: {error.errors()[0]['msg']}") from error
    # After all changes, whose order must not matter.
    if errors := [
        f"tasks.{name}.weighted_metrics: metrics need the column of the weights: --set tasks.{name}.weight=COLUMN"
        for name, section in tasks.items()
        if section.weighted_metrics and section.weight is None
    ]:
        raise MtlError(*errors)
    return tasks


def _sources(
    config: Config, section: TaskConfig, task: Task, files: list[str], data: str | None, splits: Sequence[str] | None
) -> Mapping[str, Source]:
    """Return where the rows of a task are read, by split.

    Raises:
        MtlError: a source does not exist, or there are several files, or several splits for one file.
    """
    if len(files) > 1 or not all(files):
        raise MtlError(f"--task {task.name}={','.join(files)}: expected one file")
    if files:
        if len(splits or ()) > 1:
            raise MtlError(f"--split: {files[0]} is one split; name one of {one_of(splits or ())}")
        split = (splits or ("dev",))[0]
        if "." in split and split not in section.splits_of(kind_of(split)):
            return {}
        source = FileSource(files[0], format=format_of(files[0], name=section.format, header=section.header))
        return {split: with_filter(source, section, task, split)}
    if data is not None:
        # Files of the configuration would take precedence over the folder.
        section = section.without_files()
    sources: dict[str, Source] = {}
    for wanted in dict.fromkeys(splits or SPLITS[:2]):
        for split in section.splits_of(kind_of(wanted)):
            # `dev` stands for all sets of it, `dev.matched` for one.
            if wanted in (split, kind_of(split)):
                rows = find_source(section, task, split, data=data or config.data, sample=config.sample)
                if rows is not None:
                    sources[split] = rows
    return sources
