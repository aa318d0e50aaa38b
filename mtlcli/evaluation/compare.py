"""Compare finished runs: differences in every metric on the same rows, from their files of predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.evaluation.evaluate import SPLITS
from mtlcli.evaluation.measure import make_metrics
from mtlcli.facts import TaskFacts
from mtlcli.inference.predictor import open_run
from mtlcli.metrics.base import Metric
from mtlcli.metrics.rounding import is_constant
from mtlcli.runs.names import ENSEMBLE, PREDICTIONS, RECORD, predicted_tasks
from mtlcli.runs.results import Predictions
from mtlcli.runs.seeds import finished_group
from mtlcli.statistics.paired import Difference, holm, holm_levels, paired
from mtlcli.tasks.targets import Arrays

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
    """Hold the comparison of one metric of one task: sides[other] against sides[0].

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
    """Hold the predictions of each side's runs for the same rows, the labels, and the facts of the task with all labels that occur."""

    sides: tuple[tuple[Arrays, ...], ...]
    gold: Arrays
    facts: TaskFacts


@dataclass(frozen=True)
class TaskRows:
    """Hold a task's rows and the metrics to compute on them."""

    rows: PairedRows
    metrics: Mapping[str, Metric]


def compare(
    folders: Sequence[Path], *, split: str = "dev", tasks: Sequence[str] = (), metrics: Sequence[str] = (),
    resamples: int = 2000,
) -> Comparison:  # fmt: skip
    """Compare every folder with the first, task by task, on the rows of one split.

    Args:
        tasks: tasks to compare; all that the folders share, and that are auxiliary in none, where it is empty.
        metrics: metrics to compare, `all` for all of a task; each task's primary one where it is empty.

    Raises:
        MtlError: a run is not finished or has no predictions of the split, or the rows are not the same.
    """
    if len(folders) < 2:
        raise MtlError("expected two or more runs, the first of which is the baseline")
    places = [folder.resolve() for folder in folders]
    if twice := [str(folder) for index, folder in enumerate(folders) if places[index] in places[:index]]:
        raise MtlError(f"{one_of(twice)}: named twice; expected different runs, name each once")
    if split not in SPLITS:
        raise MtlError(f"--split {split}: expected one of {one_of(SPLITS)}")
    sides = tuple(_side(folder) for folder in folders)
    predictions = {run: _predictions(run, split) for side in sides for run in side.runs}
    if missing := [run for run, by_task in predictions.items() if not by_task]:
        raise MtlError(
            *(
                f"{run}: has no predictions of {split}; make them with: mtl eval {run} --split {split}"
                for run in missing
            )
        )
    outline = open_run(sides[0].runs[0])
    described = [open_run(run) for run in predictions if any((run / name).is_file() for name in (RECORD, ENSEMBLE))]
    auxiliary = {name: info.folder for info in described for name in info.auxiliary if name not in tasks}
    common, notes = _common(predictions, [facts.name for facts in outline.facts], tasks, split, auxiliary)
    notes[:0] = [note for info in described for note in info.notes]
    measured: dict[str, TaskRows] = {}
    errors: list[str] = []
    for task in common:
        try:
            facts = outline.facts[outline.task(task)]
            rows = _rows(task, split, [[predictions[run][task] for run in side.runs] for side in sides], facts)
            metrics_of_task = make_metrics(outline.record["tasks"][task]["metrics"], rows.facts, f"tasks.{task}")
            measured[task] = TaskRows(rows, metrics_of_task)
            notes += _constant_runs(task, sides, rows)
        except MtlError as error:
            errors.extend(error.lines)
    if errors:
        raise MtlError(*errors)
    compared: list[Compared] = []
    for task, names in _selected_metrics(measured, metrics).items():
        rows = measured[task].rows
        for name in names:
            metric = measured[task].metrics[name]
            for other in range(1, len(sides)):
                difference = paired(metric, rows.sides[0], rows.sides[other], rows.gold, resamples=resamples)
                compared.append(Compared(task, name, other, difference, 1.0, metric.higher_is_better))
    return Comparison(sides, split, tuple(corrected(compared)), tuple(notes))


def corrected(compared: Sequence[Compared]) -> list[Compared]:
    """Correct p-values and intervals for the number of comparisons, so that both lead to the same decision."""
    ps = [row.difference.p for row in compared]
    rows = []
    for row, p, level in zip(compared, holm(ps), holm_levels(ps, EVIDENCE), strict=True):
        low, high = row.difference.interval(level)
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


def _predictions(run: Path, split: str) -> dict[str, Predictions]:
    """Return a run's predictions of a split, by task."""
    return {task: Predictions(path) for task, path in predicted_tasks(run, split).items()}


def _common(
    predictions: Mapping[Path, Mapping[str, Predictions]], order: Sequence[str], wanted: Sequence[str], split: str,
    auxiliary: Mapping[str, Path],
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Return the tasks to compare, and notes about those that are left out.

    Args:
        order: tasks of the first run in their order.
        wanted: the only tasks to compare, if there are any.
        auxiliary: tasks to leave out, and a run in which each is auxiliary.

    Raises:
        MtlError: a wanted task has no predictions, or the runs have no task in common.
    """
    predicted = dict.fromkeys(task for by_task in predictions.values() for task in by_task)
    names = [task for task in order if task in predicted] + [task for task in predicted if task not in order]
    if errors := [
        f"--task {task}: no run has predictions of it on {split}{suggest(task, names)}"
        for task in wanted
        if task not in names
    ]:
        raise MtlError(*errors)
    common, notes = [], []
    for task in dict.fromkeys(wanted or names):
        lacking = [str(run) for run, by_task in predictions.items() if task not in by_task]
        if task in auxiliary:
            notes.append(
                f"{task}: left out, because it is auxiliary in {auxiliary[task]}; compare it with --task {task}"
            )
        elif lacking:
            notes.append(f"{task}: left out, because it has no predictions on {split} in {one_of(lacking)}")
        else:
            common.append(task)
    if not common:
        raise MtlError(f"nothing to compare: the runs have no task in common on {split}", *notes)
    return common, notes


def _rows(task: str, split: str, sides: Sequence[Sequence[Predictions]], facts: TaskFacts) -> PairedRows:
    """Match the rows of all runs by their texts.

    Raises:
        MtlError: two runs do not have the same rows.
    """
    first = sides[0][0]
    for file in (file for side in sides for file in side):
        if problem := _difference_of_rows(first, file):
            raise MtlError(
                f"{task}: {first.path} and {file.path} do not have the same rows: {problem}; "
                f"compare runs of the same {split} rows"
            )
    # Other runs can have labels that the first one lacks.
    target = facts.target.widen([row for side in sides for predictions in side for row in predictions.rows])
    predicted = tuple(tuple(file.read(target, like=first)[0] for file in side) for side in sides)
    return PairedRows(predicted, first.read(target)[1], replace(facts, target=target))


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


def _constant_runs(task: str, sides: Sequence[Side], rows: PairedRows) -> list[str]:
    """Return a note for each run that predicts the same for every row."""
    return [
        f"{task}: {run} predicts the same for every row"
        for side, of_side in zip(sides, rows.sides, strict=True)
        for run, predictions in zip(side.runs, of_side, strict=True)
        if is_constant(predictions, rows.facts)
    ]


def _selected_metrics(measured: Mapping[str, TaskRows], wanted: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the metrics to compare, by task: the primary one where none is wanted.

    Raises:
        MtlError: no task has a wanted metric.
    """
    by_task = {task: list(rows.metrics) for task, rows in measured.items()}
    every = [*dict.fromkeys(name for names in by_task.values() for name in names), "all"]
    if errors := [f"--metric {name}: no task has it{suggest(name, every)}" for name in wanted if name not in every]:
        raise MtlError(*errors)
    if not wanted:
        return {task: names[:1] for task, names in by_task.items()}
    return {task: [name for name in names if name in wanted or "all" in wanted] for task, names in by_task.items()}
