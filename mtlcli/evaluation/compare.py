"""Compare finished runs: differences in every metric on the same rows, from their files of predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtlcli.config.evaluation_sets import in_words, kind_of
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.evaluation.evaluate import check_split
from mtlcli.evaluation.measure import make_metrics
from mtlcli.facts import TaskFacts
from mtlcli.inference.predictor import RunInfo, open_run
from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import is_constant
from mtlcli.metrics.titles import plugin_of
from mtlcli.runs.names import ENSEMBLE, PREDICTIONS, RECORD, predicted_splits
from mtlcli.runs.results import Predictions
from mtlcli.runs.seeds import finished_group
from mtlcli.statistics.groups import RowGroups
from mtlcli.statistics.paired import Difference, holm, holm_levels, paired
from mtlcli.tasks.targets import Arrays

RowsOf = tuple[str, str]
"""A task and a split of it, such as `dev` or `dev.matched`."""

EVIDENCE = 0.05
"""Largest corrected p-value that counts as evidence of a difference."""


@dataclass(frozen=True)
class Side:
    """Hold a side of a comparison, by the name it was given: a run, an ensemble, or the runs of several seeds."""

    name: str
    runs: tuple[Path, ...]
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Compared:
    """Hold the comparison of one metric of one task on one split: sides[other] against sides[0].

    `p_holm` is corrected for everything that was compared at once (Holm 1979). The interval from `low` to `high` has the
    `level` that fits: 1 - 0.05 / (m - rank), where p has that rank among the m p-values. It includes 0 wherever `p_holm`
    is above 0.05: a test that does not reject 0 leaves it among the plausible values.
    """

    task: str
    metric: str
    other: int
    difference: Difference
    p_holm: float
    higher_is_better: bool
    level: float = 1 - EVIDENCE
    low: float = 0.0
    high: float = 0.0
    split: str = "dev"

    @property
    def name(self) -> str:
        """Return the task, and the evaluation set if the task has several: `mnli matched`."""
        return _words((self.task, self.split))

    @property
    def better(self) -> int | None:
        """Return the index of the better side; None without evidence: p_holm above 0.05, or 0 in the interval."""
        if self.p_holm > EVIDENCE or self.low <= 0 <= self.high:
            return None
        return self.other if (self.difference.value > 0) == self.higher_is_better else 0


@dataclass(frozen=True)
class Comparison:
    """Hold the sides, the first of which is the baseline, what was compared, and notes about what was not."""

    sides: tuple[Side, ...]
    split: str
    compared: tuple[Compared, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PairedRows:
    """Hold the predictions of each side's runs for the same rows, with the labels, groups and weights of the rows.

    `facts` are those of the task, with all labels that occur.
    """

    sides: tuple[tuple[Arrays, ...], ...]
    gold: Arrays
    facts: TaskFacts
    groups: RowGroups | None = None
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class TaskRows:
    """Hold a task's rows and the metrics to compute on them."""

    rows: PairedRows
    metrics: Mapping[str, Metric]


def compare(
    folders: Sequence[Path], *, split: str = "dev", tasks: Sequence[str] = (), metrics: Sequence[str] = (),
    resamples: int = 2000,
) -> Comparison:  # fmt: skip
    """Compare every folder with the first, task by task, on the rows of one split; each set of several is compared alone.

    Args:
        split: `dev`, `test`, `train`, or a set such as `dev.matched`.
        tasks: tasks to compare; all that the folders share, and that are auxiliary in none, where it is empty.
        metrics: metrics to compare, `all` for all of a task; each task's primary one where it is empty.

    Raises:
        MtlError: a run is not finished or has no predictions of the split, or the rows are not the same.
    """
    if len(folders) < 2:
        raise MtlError("expected two or more runs, the first of which is the baseline")
    # A link, or another spelling of a path, can be the same run.
    places = [folder.resolve() for folder in folders]
    if twice := [str(folder) for index, folder in enumerate(folders) if places[index] in places[:index]]:
        raise MtlError(f"{one_of(twice)}: named twice; expected different runs, name each once")
    check_split(split)
    sides = tuple(_side(folder) for folder in folders)
    predictions = {run: _predictions(run, split) for side in sides for run in side.runs}
    if missing := [run for run, by_rows in predictions.items() if not by_rows]:
        raise MtlError(
            *(
                f"{run}: has no predictions of {split}; make them with: mtl eval {run} --split {split}"
                for run in missing
            )
        )
    outline = open_run(sides[0].runs[0])
    # A side can also be a folder with predictions alone.
    described = [open_run(run) for run in predictions if any((run / name).is_file() for name in (RECORD, ENSEMBLE))]
    auxiliary = {name: info.folder for info in described for name in info.auxiliary if name not in tasks}
    common, notes = _common(predictions, _order(outline, split), tasks, split, auxiliary)
    notes[:0] = [note for info in described for note in info.notes]
    measured: dict[RowsOf, TaskRows] = {}
    errors: list[str] = []
    for key in common:
        task = key[0]
        try:
            facts = outline.facts[outline.task(task)]
            rows = _rows(key, [[predictions[run][key] for run in side.runs] for side in sides], facts, notes)
            measured[key] = TaskRows(rows, _metrics_of(outline, task, rows))
            notes += _constant_runs(_words(key), sides, rows)
        except MtlError as error:
            # The errors of all tasks are reported at once.
            errors.extend(error.lines)
    if errors:
        raise MtlError(*errors)
    compared: list[Compared] = []
    for key, names in _selected_metrics(measured, metrics).items():
        rows = measured[key].rows
        for name in names:
            metric = measured[key].metrics[name]
            for other in range(1, len(sides)):
                difference = paired(
                    metric, rows.sides[0], rows.sides[other], rows.gold, groups=rows.groups,
                    weights=rows.weights if metric.weighted else None, resamples=resamples,
                )  # fmt: skip
                compared.append(Compared(key[0], name, other, difference, 1.0, metric.higher_is_better, split=key[1]))
    return Comparison(sides, split, tuple(corrected(compared)), tuple(notes))


def _metrics_of(run: RunInfo, task: str, rows: PairedRows) -> dict[str, Metric]:
    """Return the metrics with which a run was measured.

    Raises:
        MtlError: they are weighted, and the rows have no weights.
    """
    section = run.config(run.task(task)).tasks[task]
    recorded = [plugin_of(title) for title in run.record["tasks"][task]["metrics"]]
    metrics = make_metrics(
        section.metrics or recorded, rows.facts, f"tasks.{task}.metrics", weighted=section.weighted_metrics
    )
    if section.weighted_metrics and rows.weights is None:
        raise MtlError(
            f"tasks.{task}: the predictions have no weights of rows; write them again: mtl eval {run.folder}"
        )
    return metrics


def corrected(compared: Sequence[Compared]) -> list[Compared]:
    """Correct p-values and intervals for the number of comparisons, so that both lead to the same decision."""
    ps = [row.difference.p for row in compared]
    rows = []
    for row, p, level in zip(compared, holm(ps), holm_levels(ps, EVIDENCE), strict=True):
        low, high = row.difference.interval(level)
        # Interval and p are from different resamples, so without this the interval could exclude 0 by itself.
        if p > EVIDENCE:
            low, high = min(low, 0.0), max(high, 0.0)
        rows.append(replace(row, p_holm=p, level=level, low=low, high=high))
    return rows


def _side(folder: Path) -> Side:
    group = finished_group(folder)
    if group is None:
        if not (folder / PREDICTIONS).is_dir():
            open_run(folder)  # says what else the folder is
        return Side(str(folder), (folder,))
    return Side(str(folder), group.runs, group.seeds)


def _predictions(run: Path, split: str) -> dict[RowsOf, Predictions]:
    """Return a run's predictions of a split and its sets."""
    return {key: Predictions(path) for key, path in predicted_splits(run, split).items()}


def _words(key: RowsOf) -> str:
    """Return the task, and the set if there are several, for messages."""
    task, split = key
    return f"{task} {split.partition('.')[2]}".rstrip()


def _order(run: RunInfo, split: str) -> list[RowsOf]:
    """Return the tasks and splits of a run in the order of its configuration."""
    names = [facts.name for facts in run.facts]
    sections = {name: run.config(index).tasks[name] for index, name in enumerate(names)}
    return [(name, part) for name, section in sections.items() for part in section.splits_of(kind_of(split))]


def _common(
    predictions: Mapping[Path, Mapping[RowsOf, Predictions]], order: Sequence[RowsOf], wanted: Sequence[str], split: str,
    auxiliary: Mapping[str, Path],
) -> tuple[list[RowsOf], list[str]]:  # fmt: skip
    """Return the tasks to compare and the split of each, and notes about those that are left out.

    Args:
        order: tasks and splits of the first run in their order.
        wanted: the only tasks to compare, if there are any.
        auxiliary: tasks to leave out, and a run in which each is auxiliary.

    Raises:
        MtlError: a wanted task has no predictions, or the runs have no task in common.
    """
    predicted = dict.fromkeys(key for by_rows in predictions.values() for key in by_rows)
    # Tasks and sets of the first run in its order, then those that only other runs have.
    keys = [key for key in order if key in predicted] + [key for key in predicted if key not in order]
    names = list(dict.fromkeys(task for task, _ in keys))
    if errors := [
        f"--task {task}: no run has predictions of it on {split}{suggest(task, names)}"
        for task in wanted
        if task not in names
    ]:
        raise MtlError(*errors)
    common, notes = [], []
    left_out: dict[tuple[str, str], list[str]] = {}
    for key in (key for task in dict.fromkeys(wanted or names) for key in keys if key[0] == task):
        task = key[0]
        lacking = [str(run) for run, by_rows in predictions.items() if key not in by_rows]
        if task in auxiliary:
            notes.append(
                f"{task}: left out, because it is auxiliary in {auxiliary[task]}; compare it with --task {task}"
            )
        elif lacking:
            left_out.setdefault((in_words(key[1]), one_of(lacking)), []).append(task)
        else:
            common.append(key)
    for (where, lacking_runs), tasks in left_out.items():
        tasks = list(dict.fromkeys(tasks))
        they = "it has" if len(tasks) == 1 else "they have"
        notes.append(f"{', '.join(tasks)}: left out, because {they} no predictions on {where} in {lacking_runs}")
    if not common:
        raise MtlError(f"nothing to compare: the runs have no task in common on {split}", *notes)
    return common, list(dict.fromkeys(notes))


def _rows(key: RowsOf, sides: Sequence[Sequence[Predictions]], facts: TaskFacts, notes: list[str]) -> PairedRows:
    """Match the rows of all runs by their texts. Groups and weights are those of the first file that has some.

    Args:
        notes: receives a note about groups that differ between runs.

    Raises:
        MtlError: two runs do not have the same rows.
    """
    first = sides[0][0]
    for file in (file for side in sides for file in side):
        if problem := _difference_of_rows(first, file):
            raise MtlError(
                f"{_words(key)}: {first.path} and {file.path} do not have the same rows: {problem}; "
                f"compare runs of the same {kind_of(key[1])} rows"
            )
    # Other runs can have labels that the first one lacks.
    target = facts.target.widen([row for side in sides for predictions in side for row in predictions.rows])
    predicted = tuple(tuple(file.read(target, like=first)[0] for file in side) for side in sides)
    # A file lacks groups or weights if its run was not configured with them.
    grouped = [(file, groups) for side in sides for file in side if (groups := file.groups(like=first)) is not None]
    groups = grouped[0][1] if grouped else None
    for file, other in grouped:
        if groups is not None and not groups.same_as(other):
            notes.append(
                f"{_words(key)}: {file.path} has other groups than {grouped[0][0].path}, whose groups are used"
            )
    weights = next(
        (of_file for side in sides for file in side if (of_file := file.weights(like=first)) is not None), None
    )
    return PairedRows(predicted, first.read(target)[1], replace(facts, target=target), groups, weights)


def _difference_of_rows(first: Predictions, other: Predictions) -> str | None:
    """Return how the rows of two files differ, None where they have the same texts and targets."""
    only_first, only_other = first.missing_from(other), other.missing_from(first)
    if only_first or only_other:
        counts = f"{len(first.rows)} rows" + (f" and {len(other.rows)}" if len(first.rows) != len(other.rows) else "")
        return f"of {counts}, the texts of {only_first} are in the first file alone and those of {only_other} in the second"
    pairs = list(zip(first.rows, other.in_order_of(first), strict=True))
    changed = [(a, b) for a, b in pairs if a["target"] != b["target"]]
    if not changed:
        return None
    a, b = changed[0]
    return (
        f"{len(changed)} of {len(pairs)} have another target; the text of line {a['line']} has {a['target']!r} and, in line "
        f"{b['line']}, {b['target']!r}"
    )


def _constant_runs(words: str, sides: Sequence[Side], rows: PairedRows) -> list[str]:
    """Return a note for each run that predicts the same for every row."""
    return [
        f"{words}: {run} predicts the same for every row"
        for side, of_side in zip(sides, rows.sides, strict=True)
        for run, predictions in zip(side.runs, of_side, strict=True)
        if is_constant(predictions, rows.facts)
    ]


def _selected_metrics(measured: Mapping[RowsOf, TaskRows], wanted: Sequence[str]) -> dict[RowsOf, list[str]]:
    """Return the names of the metrics to compare: the primary one of each task where none is wanted.

    Raises:
        MtlError: no task has a wanted metric.
    """
    by_rows = {key: list(rows.metrics) for key, rows in measured.items()}
    every = [*dict.fromkeys(name for names in by_rows.values() for name in names), "all"]
    if errors := [f"--metric {name}: no task has it{suggest(name, every)}" for name in wanted if name not in every]:
        raise MtlError(*errors)
    if not wanted:
        return {key: names[:1] for key, names in by_rows.items()}
    return {key: [name for name in names if name in wanted or "all" in wanted] for key, names in by_rows.items()}
