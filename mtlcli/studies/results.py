"""The results of a study, run by run in `study.json`, and the table that shows them.

The gain over single-task training is Delta_m of Maninis, Radosavovic, Kokkinos, CVPR 2019, arXiv:1904.08918.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from mtlcli.errors import MtlError
from mtlcli.files import read_sealed_as, write_sealed
from mtlcli.runs.names import STUDY
from mtlcli.statistics.spread import Spread, spread_of

FORMAT = 2
SINGLE, STATIC = "single-task", "static-tuned"
"""Names of the two baselines in the table."""

Kind = Literal["method", "single-task", "trial", "static", "pair", "transfer", "group"]
"""`pair`, `transfer` and `group` are runs of `mtl affinity`; a table of methods leaves them out."""


@dataclass(frozen=True)
class TaskMetric:
    """Name a task's primary metric on dev, and its direction."""

    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Record:
    """Hold the result of one run of a study.

    A run of the kind `trial` tunes the static weights. A run that failed has an `error` and no metrics.

    Attributes:
        place: the run's folder, relative to the study's.
        metrics: by task and metric, on dev, of the selected checkpoint; of several dev sets, the mean over those that select it.
        sets: by task, set and metric, for tasks with several dev sets.
        score: the score that selected the checkpoint.
        step_seconds: median time of a step in seconds, without evaluations.
        batches: mean number of micro-batches per step; None if the scheduler keeps only some of their rows.
        weights: the static weights by task, of a trial and of the baseline that it tunes.
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
    sets: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass
class Study:
    """Hold the content of study.json: the shared recipe, the length of each run, and the runs in the order they ended."""

    steps: int
    steps_per_epoch: int
    select_by: str
    tasks: dict[str, TaskMetric]
    base: dict[str, Any]
    device: str
    records: list[Record] = field(default_factory=list)

    def record(self, place: str) -> Record | None:
        """Return the finished run of a folder; None if there is none."""
        return next((record for record in self.records if record.place == place and not record.error), None)

    def add(self, record: Record) -> None:
        """Add a run, replacing an earlier result of the same folder."""
        # At the end, because records are in the order in which runs ended.
        self.records = [earlier for earlier in self.records if earlier.place != record.place] + [record]


def write_study(study: Study, folder: Path) -> None:
    """Write study.json to a folder. Raise MtlError if it cannot be written."""
    write_sealed(folder / STUDY, asdict(study), FORMAT)


def read_study(path: Path) -> Study:
    """Return the study of a folder or file. Raise MtlError if it is missing or damaged."""
    path = path / STUDY if path.is_dir() else path
    if not path.exists():
        raise MtlError(f"{path}: not found; expected a {STUDY} written by `mtl study --output`")
    return read_sealed_as(Study, path, FORMAT, "restore a copy, or start over: mtl study --overwrite")


@dataclass(frozen=True)
class StudyRow:
    """Hold a row of the table. `gain` is in percent over single-task training; None if that was not run."""

    method: str
    seeds: int
    failed: int
    metrics: Mapping[str, Spread | None]
    gain: Spread | None
    step_seconds: float | None
    batches: float | None


def spread(values: Iterable[float]) -> Spread | None:
    """Return the mean and standard deviation over the seeds; None without values."""
    samples = list(values)
    return spread_of(samples) if samples else None


def relative_gain(
    metrics: Mapping[str, float], single: Mapping[str, float], tasks: Mapping[str, TaskMetric]
) -> float | None:
    """Return Delta_m in percent: the mean over the tasks of (M - S) / |S|, with the sign flipped if a lower metric is better.

    Args:
        metrics: primary metrics M of the method, by task.
        single: primary metrics S of single-task training, by task.
        tasks: the tasks to average over.

    Returns:
        None if a metric is missing, or if S is exactly zero, because a relative difference to zero is undefined.
    """
    if not tasks or any(name not in metrics or not single.get(name) for name in tasks):
        return None
    sign = {name: 1 if task.higher_is_better else -1 for name, task in tasks.items()}
    return 100 * mean(sign[name] * (metrics[name] - single[name]) / abs(single[name]) for name in tasks)


def rows(study: Study) -> list[StudyRow]:
    """Return the table: single-task first, then tuned static weights, then the methods in the order of their first run."""
    methods = dict.fromkeys(record.method for record in study.records if record.kind == "method")
    alone = [record for record in study.records if record.kind == "single-task"]
    # Gains are relative to the mean over the seeds, so that the row of single-task training shows the noise.
    single = {task: mean(values) for task in study.tasks if (values := list(_primary(study, alone, task).values()))}
    table = []
    for method in (SINGLE, STATIC, *methods):
        runs = [record for record in study.records if record.method == method and record.kind != "trial"]
        if not runs:
            continue
        # A failed run has no metrics, so a row may average over fewer seeds; the column `seeds` shows it.
        by_task = {task: _primary(study, runs, task) for task in study.tasks}
        seeds = list(dict.fromkeys(record.seed for record in runs if not record.error))
        gains = (
            relative_gain({t: values[seed] for t, values in by_task.items() if seed in values}, single, study.tasks)
            for seed in seeds
        )
        table.append(
            StudyRow(
                method,
                len(seeds),
                sum(1 for record in runs if record.error),
                {task: spread(values.values()) for task, values in by_task.items()},
                spread(gain for gain in gains if gain is not None),
                _per_seed(runs, [record.step_seconds for record in runs]),
                _per_seed(runs, [record.batches for record in runs]),
            )
        )
    return table


def _primary(study: Study, runs: Sequence[Record], task: str) -> dict[int, float]:
    """Return the primary metric of a task by seed."""
    metric = study.tasks[task].metric
    return {record.seed: record.metrics[task][metric] for record in runs if metric in record.metrics.get(task, {})}


def _per_seed(runs: Sequence[Record], values: Sequence[float | None]) -> float | None:
    """Return the mean over the runs, times the runs per seed: single-task training takes one run for each task."""
    measured = [value for value in values if value is not None]
    # A run's folder without its seed: one for each method, and one for each task that is trained alone.
    names = {record.place.rpartition("/")[0] for record in runs}
    return mean(measured) * len(names) if measured else None


def cells(study: Study) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return the table as text: columns as (name, alignment), and a list of cells for every row.

    The gain is shown if tasks were trained alone; seeds are shown if they differ between rows or a run failed, and batches if
    they differ.
    """
    table = rows(study)
    columns = [("method", "left")]
    columns += [
        (f"{name} {task.metric}{'' if task.higher_is_better else ' (less)'}", "right")
        for name, task in study.tasks.items()
    ]
    lines = [[row.method, *(_shown(row.metrics[task], 3) for task in study.tasks)] for row in table]
    extra: list[tuple[str, list[str]]] = []
    if any(record.kind == "single-task" for record in study.records):
        extra.append(("gain %", [_shown(row.gain, 1, sign="+") for row in table]))
    if len({row.seeds for row in table}) > 1 or any(row.failed for row in table):
        extra.append(("seeds", [f"{row.seeds}" + (f" ({row.failed} failed)" if row.failed else "") for row in table]))
    if _batches_differ(table):
        extra.append(("batches", ["-" if row.batches is None else f"{row.batches:.3g}" for row in table]))
    extra.append(("ms", ["-" if row.step_seconds is None else f"{1e3 * row.step_seconds:.3g}" for row in table]))
    for name, values in extra:
        columns.append((name, "right"))
        for line, value in zip(lines, values, strict=True):
            line.append(value)
    return columns, lines


def _batches_differ(table: Sequence[StudyRow]) -> bool:
    # Compared as the table rounds them: schedulers that draw differ a little from seed to seed.
    return len({None if row.batches is None else f"{row.batches:.2f}" for row in table}) > 1


def _shown(value: Spread | None, digits: int, sign: str = "") -> str:
    if value is None:
        return "-"
    deviation = f" ±{value.deviation:.{digits}f}" if len(value.values) > 1 else ""
    return f"{round(value.mean, digits) + 0.0:{sign}.{digits}f}{deviation}"  # + 0.0 turns -0.0 into 0.0


def legend(study: Study) -> list[str]:
    """Return the sentences that explain the table."""
    table = rows(study)
    kinds = {record.kind for record in study.records}
    seeds = max((row.seeds for row in table), default=0)
    over = f": mean ± standard deviation over {seeds} seeds" if seeds > 1 else ", of one seed"
    lines = [
        f"Every run makes {study.steps} optimizer updates. Metrics are on dev, at the checkpoint that each run selected "
        f"(select_by: {study.select_by}){over}."
    ]
    if "single-task" in kinds:
        noise = "; its own ± is the noise between seeds" if seeds > 1 else ""
        lines.append(
            f"{SINGLE}: each task alone, for the same number of updates of one batch; its ms is the sum over the tasks. gain %: "
            f"mean over the tasks of the relative difference to it (Maninis et al. 2019){noise}."
        )
    sets = {task: dict.fromkeys(record.sets[task]) for record in study.records for task in record.sets}
    lines += [
        f"{task}: has the dev sets {', '.join(names)}; the table shows the mean over those that select checkpoints, study.json each."
        for task, names in sets.items()
    ]
    auxiliary = [name for name, section in study.base.get("tasks", {}).items() if section.get("auxiliary")]
    if auxiliary:
        lines.append(f"Auxiliary, and so trained without being evaluated: {', '.join(auxiliary)}.")
    weights = next((record.weights for record in study.records if record.kind == "static" and record.weights), None)
    trials = [record for record in study.records if record.kind == "trial"]
    # An earlier version of a study may have tuned with another seed; only the latest trials selected the weights.
    trials = [record for record in trials if record.seed == trials[-1].seed]
    if weights is not None and trials:
        values = ", ".join(f"{name} {weight:.2g}" for name, weight in weights.items())
        lines.append(
            f"{STATIC}: the best of {len(trials)} choice{'s' if len(trials) > 1 else ''} of static weights ({values}), selected "
            f"on the same dev rows with seed {trials[0].seed}, which is not in the table; this favors it slightly."
        )
    if _batches_differ(table):
        lines.append(
            "batches: micro-batches per step, over all tasks; a method with fewer has seen fewer rows (a method's own recipe may "
            "set training.micro_batches)."
        )
    lines.append(
        f"ms: median time of a step on {study.device}, without evaluations; a rough guide, because runs are made in sequence."
    )
    return lines


def markdown(study: Study) -> str:
    """Return the table and its explanation as Markdown, for a page of documentation."""
    columns, body = cells(study)
    lines = [[name for name, _ in columns], ["---" if side == "left" else "---:" for _, side in columns], *body]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *legend(study)])
