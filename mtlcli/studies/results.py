"""What a study found, run by run in `study.json`, and the table that is made of it.

Gain over single-task training: Maninis, Radosavovic, Kokkinos, CVPR 2019, arXiv:1904.08918, there Delta_m.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from mtlcli.errors import MtlError
from mtlcli.files import read_sealed, unreadable, write_sealed
from mtlcli.runs.names import STUDY
from mtlcli.statistics.spread import Spread

FORMAT = 2
SINGLE, STATIC = "single-task", "static-tuned"
"""What the table calls the two baselines."""

Kind = Literal["method", "single-task", "trial", "static"]


@dataclass(frozen=True)
class TaskMetric:
    """A task's primary metric on dev, and its direction."""

    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Record:
    """One run of a study. `place` is its folder within the study's; a `trial` is a run by which static weights were chosen.

    metrics[task][metric] are those on dev of the checkpoint that the run kept, score is what it was kept by. step_seconds is
    the median over the steps, without evaluations; batches is the mean number of micro-batches in a step, None
    where the scheduler keeps some rows of them only. A run that failed has an `error` and nothing else.
    """

    place: str
    method: str
    kind: Kind
    seed: int
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    score: float | None = None
    step_seconds: float | None = None
    batches: float | None = None
    weights: dict[str, float] | None = None
    error: str = ""


@dataclass
class Study:
    """All that is in study.json: the recipe that the runs share, how long each is, and the runs in the order they ended."""

    steps: int
    steps_per_epoch: int
    select_by: str
    tasks: dict[str, TaskMetric]
    base: dict[str, Any]
    device: str
    records: list[Record] = field(default_factory=list)

    def record(self, place: str) -> Record | None:
        """The finished run of a folder, None where there is none."""
        return next((one for one in self.records if one.place == place and not one.error), None)

    def add(self, record: Record) -> None:
        """Takes a run in, in place of what was known of its folder."""
        self.records = [one for one in self.records if one.place != record.place] + [record]


def write_study(study: Study, folder: Path) -> None:
    """Write study.json to a folder. Raise MtlError where it cannot be written."""
    write_sealed(folder / STUDY, asdict(study), FORMAT)


def read_study(path: Path) -> Study:
    """Return the study of a folder or file. Raise MtlError, one line, where it is missing or damaged."""
    path = path / STUDY if path.is_dir() else path
    if not path.exists():
        raise MtlError(f"{path}: there is no such file; expected the {STUDY} of what `mtl study --output` made")
    content = read_sealed(path, FORMAT, "put back a copy, or start over: mtl study --overwrite")
    try:
        return TypeAdapter(Study).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise unreadable(path, content.get("mtlcli"), f"{place}: {first['msg']}") from error


# The table


@dataclass(frozen=True)
class StudyRow:
    """A method in the table. `gain` is in percent over single-task training; None where that was not run."""

    method: str
    seeds: int
    failed: int
    metrics: Mapping[str, Spread | None]
    gain: Spread | None
    step_seconds: float | None
    batches: float | None


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and deviation over the seeds; None of no values."""
    found = tuple(values)
    return Spread(mean(found), stdev(found) if len(found) > 1 else 0.0, found) if found else None


def relative_gain(
    metrics: Mapping[str, float], single: Mapping[str, float], tasks: Mapping[str, TaskMetric]
) -> float | None:
    """Delta_m in percent: the mean over the tasks of (M - S) / |S|, its sign turned where a lower metric is better.

    metrics and single are primary metrics by task, of the method and of training each task alone. None where one is
    missing, or where a task alone has exactly zero, of which nothing is a percentage.
    """
    if not tasks or any(name not in metrics or not single.get(name) for name in tasks):
        return None
    sign = {name: 1 if task.higher_is_better else -1 for name, task in tasks.items()}
    return 100 * mean(sign[name] * (metrics[name] - single[name]) / abs(single[name]) for name in tasks)


def rows(study: Study) -> list[StudyRow]:
    """The table: single-task first, then tuned static weights, then the methods in the order of their first run."""
    methods = dict.fromkeys(one.method for one in study.records if one.kind == "method")
    alone = [one for one in study.records if one.kind == "single-task"]
    single = {task: mean(values) for task in study.tasks if (values := list(_primary(study, alone, task).values()))}
    found = []
    for method in (SINGLE, STATIC, *methods):
        runs = [one for one in study.records if one.method == method and one.kind != "trial"]
        if not runs:
            continue
        by_task = {task: _primary(study, runs, task) for task in study.tasks}
        seeds = list(dict.fromkeys(one.seed for one in runs if not one.error))
        gains = (
            relative_gain({t: values[seed] for t, values in by_task.items() if seed in values}, single, study.tasks)
            for seed in seeds
        )
        found.append(
            StudyRow(
                method,
                len(seeds),
                sum(1 for one in runs if one.error),
                {task: spread(values.values()) for task, values in by_task.items()},
                spread(gain for gain in gains if gain is not None),
                _per_seed(runs, [one.step_seconds for one in runs]),
                _per_seed(runs, [one.batches for one in runs]),
            )
        )
    return found


def _primary(study: Study, runs: Sequence[Record], task: str) -> dict[int, float]:
    """The primary metric of a task by seed."""
    metric = study.tasks[task].metric
    return {one.seed: one.metrics[task][metric] for one in runs if metric in one.metrics.get(task, {})}


def _per_seed(runs: Sequence[Record], values: Sequence[float | None]) -> float | None:
    """Mean over the runs, times the runs of one seed: single-task training takes one run for each task."""
    known = [value for value in values if value is not None]
    names = {one.place.rpartition("/")[0] for one in runs}
    return mean(known) * len(names) if known else None


def cells(study: Study) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The table as text: columns as (name, side), and a list of cells for every row.

    The gain is there where tasks were trained alone, seeds and batches where they differ between rows or a run has failed.
    """
    found = rows(study)
    columns = [("method", "left")]
    columns += [
        (f"{name} {task.metric}{'' if task.higher_is_better else ' (less)'}", "right")
        for name, task in study.tasks.items()
    ]
    lines = [[row.method, *(_shown(row.metrics[task], 3) for task in study.tasks)] for row in found]
    extra: list[tuple[str, list[str]]] = []
    if any(one.kind == "single-task" for one in study.records):
        extra.append(("gain %", [_shown(row.gain, 1, sign="+") for row in found]))
    if len({row.seeds for row in found}) > 1 or any(row.failed for row in found):
        extra.append(("seeds", [f"{row.seeds}" + (f" ({row.failed} failed)" if row.failed else "") for row in found]))
    if _batches_differ(found):
        extra.append(("batches", ["-" if row.batches is None else f"{row.batches:.3g}" for row in found]))
    extra.append(("ms", ["-" if row.step_seconds is None else f"{1e3 * row.step_seconds:.3g}" for row in found]))
    for name, values in extra:
        columns.append((name, "right"))
        for line, value in zip(lines, values, strict=True):
            line.append(value)
    return columns, lines


def _batches_differ(found: Sequence[StudyRow]) -> bool:
    return len({None if row.batches is None else f"{row.batches:.2f}" for row in found}) > 1


def _shown(value: Spread | None, digits: int, sign: str = "") -> str:
    if value is None:
        return "-"
    deviation = f" ±{value.deviation:.{digits}f}" if len(value.values) > 1 else ""
    return f"{round(value.mean, digits) + 0.0:{sign}.{digits}f}{deviation}"  # + 0.0: never -0.0


def legend(study: Study) -> list[str]:
    """What one has to know to read the table, a sentence each."""
    found = rows(study)
    kinds = {one.kind for one in study.records}
    seeds = max((row.seeds for row in found), default=0)
    over = f": mean ± standard deviation over {seeds} seeds" if seeds > 1 else ", of one seed"
    lines = [
        f"Every run makes {study.steps} optimizer updates. Metrics are on dev, of the checkpoint that each run kept "
        f"(select_by {study.select_by}){over}."
    ]
    if "single-task" in kinds:
        noise = "; its own ± is the noise between seeds" if seeds > 1 else ""
        lines.append(
            f"{SINGLE}: every task alone, for as many updates of one batch; its ms are those of all tasks together. gain %: mean "
            f"over the tasks of the relative difference to it (Maninis et al. 2019){noise}."
        )
    weights = next((one.weights for one in study.records if one.kind == "static" and one.weights), None)
    trials = [one for one in study.records if one.kind == "trial"]
    trials = [one for one in trials if one.seed == trials[-1].seed]
    if weights is not None and trials:
        chosen = ", ".join(f"{name} {weight:.2g}" for name, weight in weights.items())
        lines.append(
            f"{STATIC}: the best of {len(trials)} choice{'s' if len(trials) > 1 else ''} of static weights ({chosen}), chosen on "
            f"the same dev rows with seed {trials[0].seed}, which is not in the table: a little optimistic."
        )
    if _batches_differ(found):
        lines.append(
            "batches: of any task in a step; who has fewer has seen fewer rows (a method's own recipe may set "
            "training.micro_batches)."
        )
    lines.append(
        f"ms: median time of a step on {study.device}, without evaluations; the runs came one after the other, so a rough guide."
    )
    return lines


def markdown(study: Study) -> str:
    """The table and how to read it, for a page of documentation."""
    columns, found = cells(study)
    lines = [[name for name, _ in columns], ["---" if side == "left" else "---:" for _, side in columns], *found]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *legend(study)])
