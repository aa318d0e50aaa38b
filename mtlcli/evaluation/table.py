"""Show results of finished runs side by side, and published ones beside them.

A table has a row for each run or group of seeds and a column for each task.
"""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlcli import registry
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.metrics.titles import plugin_of
from mtlcli.runs.names import CONFIG, ENSEMBLE, RESULTS, not_a_run, resume_command
from mtlcli.runs.results import Results, has_results, read_results
from mtlcli.runs.seeds import read_group
from mtlcli.statistics.spread import Spread, spread_of

Column = tuple[str, str]
"""A task, or a task and one of its evaluation sets such as `mnli matched`, and a metric."""

Bounds = tuple[float, float]
"""The worst and the best value of a metric."""

NOT_RUN = "not run yet"


@dataclass(frozen=True)
class FolderResults:
    """Hold the results in a folder, by the name it was given: of one run, of one for each seed, or none yet.

    `auxiliary` are the tasks that its runs train without counting them.
    """

    name: str
    runs: tuple[Mapping[Column, float], ...]
    auxiliary: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TableRow:
    """Hold the row of a folder: a value for each column, None where its runs do not have the metric.

    `mean` is over the columns of each run whose tasks count in all folders; None where one is missing. `runs` is 0 where nothing
    was run.
    """

    name: str
    runs: int
    cells: tuple[Spread | None, ...]
    mean: Spread | None


@dataclass(frozen=True)
class Table:
    """Hold the rows in the order of their folders. `mean_title` is "" where a mean over the columns would mean nothing."""

    titles: tuple[str, ...]
    rows: tuple[TableRow, ...]
    mean_title: str = ""


@dataclass(frozen=True)
class Published:
    """Hold published numbers as they are written there: `rows` by the name of the run that they are shown beside."""

    titles: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


Lines = list[list[str]]
"""A table as text; the first line holds the names of the columns."""


def read(
    folders: Sequence[Path], *, split: str = "dev", sets: bool = False, allow_missing: bool = False
) -> list[FolderResults]:
    """Read results.json of each folder.

    Args:
        split: `dev` or another split, or a set such as `dev.matched`. Of several sets, `dev` is their mean.
        sets: read the sets of the split, too.
        allow_missing: a folder that does not exist or is not finished has no runs, in place of an error.

    Raises:
        MtlError: one line for every folder without results of the split.
    """
    measured: list[FolderResults] = []
    errors: list[str] = []
    for folder in folders:
        try:
            group = read_group(folder)
            runs = (folder,) if group is None else group.runs
            if all(has_results(run) for run in runs):
                results = [read_results(run) for run in runs]
                auxiliary = frozenset(task for of_run in results for task in of_run.auxiliary or ())
                values = tuple(
                    _values(run, of_run, split, sets=sets) for run, of_run in zip(runs, results, strict=True)
                )
                measured.append(FolderResults(str(folder), values, auxiliary))
            elif allow_missing:
                measured.append(FolderResults(str(folder), ()))
            else:
                raise MtlError(_lacking(folder, is_group=group is not None))
        except MtlError as error:
            errors.extend(error.lines)
    if errors:
        raise MtlError(*errors)
    return measured


def _values(run: Path, results: Results, split: str, *, sets: bool) -> dict[Column, float]:
    """Return every metric of one run on a split, and those on its sets before it. Raise MtlError where there is none."""
    values: dict[Column, float] = {}
    for task, splits in results.tasks.items():
        names = [name for name in splits if name.startswith(f"{split}.")] if sets else []
        for name in (*names, split):
            # A space cannot be part of a task's name, so it distinguishes sets from tasks in `tabulate`.
            title = task if name == split else f"{task} {name.partition('.')[2]}"
            values |= {(title, metric): estimate.value for metric, estimate in splits.get(name, {}).items()}
    if not values:
        names = list(dict.fromkeys(name for by_split in results.tasks.values() for name in by_split))
        raise MtlError(f"{run / RESULTS}: has no results of {split}{suggest(split, names)}")
    return values


def _is_ensemble(folder: Path) -> bool:
    return (folder / ENSEMBLE).is_file()


def _lacking(folder: Path, *, is_group: bool) -> str:
    if is_group or (folder / CONFIG).is_file():
        return f"{folder}: not finished; resume with: {resume_command(folder)}"
    if _is_ensemble(folder):
        return f"{folder}: not measured yet: mtl eval {folder}"
    if folder.is_dir():
        return not_a_run(folder, RESULTS)
    return f"{folder}: there is no such run folder"


def bounds_of(measured: Sequence[FolderResults]) -> dict[str, Bounds]:
    """Return the bounds of every metric that occurs and is installed."""
    bounds: dict[str, Bounds] = {}
    for name in dict.fromkeys(metric for folder in measured for run in folder.runs for _, metric in run):
        # Results stay readable without their plugins: a missing bound prevents only the mean and normalized values.
        if plugin_of(name) in registry.names("metrics"):
            bounds[name] = registry.load("metrics", plugin_of(name), "metric").bounds
    return bounds


def tabulate(
    measured: Sequence[FolderResults],
    *,
    metrics: Sequence[str] = (),
    bounds: Mapping[str, Bounds],
    normalized: bool = False,
) -> Table:
    """Build the table of these metrics, `all` standing for all; without any, of each task's primary one, with their mean.

    `normalized` maps every value to a scale from 0, the worst, to 1: (r + 1) / 2 for a correlation. There is a mean where
    all columns are primary metrics with a worst value, so that they may be added; tasks that are auxiliary in one of the folders
    are not in it. Where nothing was run yet there is one column for everything.

    Raises:
        MtlError: no task has a metric, or one that is to be normalized has no bounds.
    """
    # Dicts as ordered sets: the first metric of a task in results.json is its primary one.
    by_task: dict[str, dict[str, None]] = {}
    for task, metric in (column for folder in measured for run in folder.runs for column in run):
        by_task.setdefault(task, {})[metric] = None
    if not by_task:
        return Table(("results",), tuple(TableRow(folder.name, 0, (None,), None) for folder in measured))
    every = [*dict.fromkeys(name for names in by_task.values() for name in names), "all"]
    if errors := [f"--metric {name}: no task has it{suggest(name, every)}" for name in metrics if name not in every]:
        raise MtlError(*errors)
    columns = [
        (task, name)
        for task, names in by_task.items()
        for index, name in enumerate(names)
        if (name in metrics or "all" in metrics if metrics else index == 0)
    ]
    bounded = {name for name, ends in bounds.items() if all(map(math.isfinite, ends))}
    if normalized and (without := dict.fromkeys(metric for _, metric in columns if metric not in bounded)):
        raise MtlError(f"--normalized: {one_of(without)} has no bounds; choose others with --metric")

    def value(run: Mapping[Column, float], column: Column) -> float | None:
        number = run.get(column)
        if number is None or not normalized:
            return number
        worst, best = bounds[column[1]]
        return (number - worst) / (best - worst)

    titles = [
        f"{task} {metric}{' (0 to 1)' if normalized and bounds[metric] != (0.0, 1.0) else ''}"
        for task, metric in columns
    ]
    auxiliary = frozenset(task for folder in measured for task in folder.auxiliary)
    # A set, whose name follows a space, is already part of its task's mean.
    counted = [index for index, (task, _) in enumerate(columns) if task not in auxiliary and " " not in task]
    has_mean = not metrics and len(counted) > 1 and all(columns[index][1] in bounded for index in counted)
    left_out = any(task in auxiliary for task, _ in columns)
    mean_title = f"mean of {', '.join(columns[index][0] for index in counted)}" if left_out else "mean"
    rows = []
    for folder in measured:
        by_run = [[value(run, column) for column in columns] for run in folder.runs]
        spreads = [_complete_spread([values[index] for index in counted]) for values in by_run]
        means = [None if spread is None else spread.mean for spread in spreads]
        cells = tuple(_complete_spread([values[index] for values in by_run]) for index in range(len(columns)))
        rows.append(TableRow(folder.name, len(folder.runs), cells, _complete_spread(means)))
    return Table(tuple(titles), tuple(rows), mean_title if has_mean else "")


def _complete_spread(values: Sequence[float | None]) -> Spread | None:
    """Return mean and deviation; None without values, or where one is missing."""
    present = [value for value in values if value is not None]
    return spread_of(present) if present and len(present) == len(values) else None


# How a table is shown


def lines(table: Table, digits: int = 3) -> Lines:
    """Return the table as text, a mean with its deviation where a row has several seeds."""

    def shown(cell: Spread | None) -> str:
        if cell is None:
            return "-"
        deviation = f" ±{cell.deviation:.{digits}f}" if len(cell.values) > 1 else ""
        return f"{round(cell.mean, digits) + 0.0:.{digits}f}{deviation}"  # + 0.0: never -0.0

    several = any(row.runs > 1 for row in table.rows)
    text = [["run", *(["seeds"] if several else []), *table.titles, *_mean_titles(table)]]
    for row in table.rows:
        values = [shown(cell) for cell in (*row.cells, *([row.mean] if table.mean_title else []))]
        if not row.runs:
            values = [NOT_RUN, *[""] * (len(values) - 1)]
        text.append([row.name, *([str(row.runs or "")] if several else []), *values])
    return text


def exact_lines(table: Table) -> Lines:
    """Return the table for other programs: all digits, and columns of deviations where a row has several seeds.

    A cell without a value is empty.
    """
    several = any(row.runs > 1 for row in table.rows)
    head = ["run", *(["seeds"] if several else [])]
    for title in (*table.titles, *_mean_titles(table)):
        head += [title, f"{title} deviation"] if several else [title]
    text = [head]
    for row in table.rows:
        line = [row.name, *([str(row.runs)] if several else [])]
        for cell in (*row.cells, *([row.mean] if table.mean_title else [])):
            line.append("" if cell is None else repr(cell.mean))
            if several:
                line.append("" if cell is None or len(cell.values) < 2 else repr(cell.deviation))
        text.append(line)
    return text


def _mean_titles(table: Table) -> list[str]:
    return [table.mean_title] if table.mean_title else []


def read_published(path: Path) -> Published:
    """Read the numbers of a CSV file whose first column names the runs.

    Raises:
        MtlError: the file cannot be read, or a row has the wrong number of cells.
    """
    try:
        # utf-8-sig, because Excel writes a byte order mark.
        head, *rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is empty, or not UTF-8 text"
        raise MtlError(f"{path}: cannot be read as published numbers: {why}") from error
    if wrong := [row for row in rows if len(row) != len(head)]:
        raise MtlError(*(f"{path}: {row[0]}: found {len(row)} cells; expected {len(head)}" for row in wrong))
    # Path drops a trailing slash, as in the names of the table's own rows.
    return Published(tuple(head[1:]), {str(Path(row[0])): tuple(row[1:]) for row in rows})


def beside(published: Published, table_lines: Lines) -> Lines:
    """Put the published numbers of each run between its name and its own numbers."""
    empty = ("",) * len(published.titles)
    head, *rows = table_lines
    return [
        [head[0], *published.titles, *head[1:]],
        *([row[0], *published.rows.get(row[0], empty), *row[1:]] for row in rows),
    ]


def sides(table_lines: Lines) -> list[str]:
    """Return `right` for the columns that hold a number, else `left`."""
    return [
        "right" if any(map(_begins_with_number, column)) else "left" for column in zip(*table_lines[1:], strict=True)
    ]


def _begins_with_number(text: str) -> bool:
    try:
        # A deviation follows the mean after a space.
        float(text.split(" ")[0])
    except ValueError:
        return False
    return True


def shortened(table_lines: Lines, width: int) -> tuple[str, Lines]:
    """Drop the folder that all runs share from their names where the table is wider than `width` characters.

    Returns:
        The folder, "" where nothing was dropped, and the table.
    """
    columns = [max(map(len, column)) for column in zip(*table_lines, strict=True)]
    names = [line[0] for line in table_lines[1:]]
    parents = {os.path.dirname(name) for name in names}
    # A run in the current folder shares no folder with the others.
    if sum(columns) + 2 * (len(columns) - 1) <= width or not all(parents):
        return "", table_lines
    try:
        folder = os.path.commonpath(parents)
    except ValueError:  # absolute and relative paths, or two drives
        return "", table_lines
    if not folder:
        return "", table_lines
    rows = [[os.path.relpath(line[0], folder), *line[1:]] for line in table_lines[1:]]
    return folder, [table_lines[0], *rows]


def markdown(table_lines: Lines) -> str:
    """Return the table for a page of documentation."""
    parts = [table_lines[0], ["---:" if side == "right" else "---" for side in sides(table_lines)], *table_lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in parts)


def as_csv(table_lines: Lines) -> str:
    """Return the table as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(table_lines)
    return out.getvalue().rstrip("\n")
