"""Measured gains: what a task gains from being trained together with, or after, another one, as runs of a study.

    gain_ij = sign_j (M_j(run on {i, j}) - M_j(run on {j})) / |M_j(run on {j})| * 100

per seed, with the same seed in both runs: the same first weights of the head, and the same order of the task's rows. Every task is
read at its own best evaluation in both kinds of run, of equally many: the checkpoint of a pair run is chosen by the mean of both
tasks, that of a run alone by the task itself, which would make every gain look smaller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np

from mtlcli.affinity.results import Cell
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.data.batches import batches_per_pass
from mtlcli.errors import MtlError, one_of
from mtlcli.metrics.base import Metric
from mtlcli.runs.metrics_log import read_log
from mtlcli.runs.names import ENCODER, predictions_path
from mtlcli.runs.results import Predictions
from mtlcli.statistics.paired import holm
from mtlcli.statistics.student import t_interval, t_test
from mtlcli.studies.plan import Job, StudyPlan, only, over, seeded, task_metric
from mtlcli.studies.results import SINGLE, Study, TaskMetric
from mtlcli.training.setup import TrainingRun

RUNS = "runs"
"""Folder of the study within an affinity folder."""
MOST_UPDATES, PASSES = 2000, 3
"""Most updates of a run, and passes over the largest task, where the recipe sets no steps: at a length at which a task alone
still climbs, a gain measures speed."""
EVALUATIONS = 8
"""Evaluations of a run, where the recipe does not set steps_per_epoch."""
SMALLEST = 0.05
"""Metric of a task alone below which a ratio to it means nothing; the difference in points is used instead."""
SIGNIFICANT = 0.05

Budget = Literal["rows", "compute"]
Curve = list[tuple[int, float]]


def updates_of(base: Config, run: TrainingRun) -> int:
    """Return the number of updates of a run: the recipe's steps, else those of `PASSES` passes over the largest task."""
    if base.training.steps is not None:
        return base.training.steps
    passes = max(batches_per_pass(len(batches.tokenized), batches.batch_size) for batches in run.train)
    return min(MOST_UPDATES, PASSES * passes)


@dataclass(frozen=True)
class GainPlan:
    """Hold the runs of the measured gains: the study, the tasks by index, and the length of runs of one and of several tasks."""

    study: StudyPlan
    updates: int
    together: int
    tasks: tuple[str, ...]
    metrics: Mapping[str, TaskMetric]


def check_gains(run: TrainingRun, config: Config, measures: Sequence[str]) -> None:
    """Raise MtlError if a task has no dev rows to measure gains on, or the encoder of a run is not all that tasks share."""
    lacking = [name for name in config.tasks if name not in run.dev]
    if lacking:
        raise MtlError(
            f"--measures: {one_of(measures)} need dev rows of every task, and {one_of(lacking)} has none; set "
            f"tasks.{lacking[0]}.dev, remove the task, or choose among data, gradients and lookahead"
        )
    modules = [
        name for name, _ in run.model.named_parameters() if not name.startswith(("architecture.encoder.", "heads."))
    ]
    if modules and (wrong := [measure for measure in measures if measure in ("transfer", "logme")]):
        raise MtlError(
            f'--measures: {one_of(wrong)} start from the encoder of a run, but architecture "{config.architecture.name}" has modules '
            "beside it; leave them out, or choose the architecture hard-sharing"
        )


def plan_gains(
    base: Config, run: TrainingRun, folder: Path, measures: Sequence[str], seeds: Sequence[int], budget: Budget
) -> GainPlan:
    """Plan single-task runs, and those of pairs and of transfer if these are measured. A finished run is not made again.

    Args:
        base: the recipe.
        run: the recipe with all tasks, set up.
        folder: of the study.
        budget: `rows` gives a task as many updates in a pair as alone; `compute` gives the pair as many batches of both.
    """
    updates = updates_of(base, run)
    # Rounded up, so that there are at most EVALUATIONS.
    per_epoch = min(updates, base.training.steps_per_epoch or -(-updates // EVALUATIONS))
    fraction = 1 if budget == "rows" else 2
    # (updates, updates between two evaluations) of runs of one task and of two.
    lengths = {1: (updates, per_epoch), 2: (max(1, updates // fraction), max(1, per_epoch // fraction))}
    names = tuple(base.tasks)

    def config(tasks: Sequence[str], seed: int) -> Config:
        return seeded(_of_length(only(base, tasks), *lengths[min(2, len(tasks))]), seed)

    jobs = []
    for seed in seeds:
        # First in every seed: a transfer starts from the encoder of such a run.
        jobs += [Job(single_place(name, seed), SINGLE, "single-task", seed, config([name], seed)) for name in names]
        if "gain" in measures:
            jobs += [
                # Sorted as in the folder's name, so that both orders of a pair are the same run.
                Job(pair_place(pair, seed), "pair", "pair", seed, config(sorted(pair), seed))
                for pair in combinations(names, 2)
            ]
        if "transfer" in measures:
            jobs += [
                Job(
                    transfer_place(first, then, seed),
                    "transfer",
                    "transfer",
                    seed,
                    transferred(config([then], seed), folder / single_place(first, seed)),
                )
                for first in names
                for then in names
                if first != then
            ]
    metrics = {name: task_metric(run, name) for name in run.dev}
    study = Study(updates, per_epoch, "mean", metrics, _of_length(base, updates, per_epoch).plain(), str(run.device))
    return GainPlan(StudyPlan(study, tuple(jobs), base, ()), updates, lengths[2][0], names, metrics)


def _of_length(config: Config, updates: int, per_epoch: int) -> Config:
    """Return a recipe with this length and the same number of evaluations as every other one, and a constant learning rate."""
    # Early stopping would give runs different numbers of evaluations from which the best is taken.
    training = {
        "steps": updates,
        "epochs": None,
        "steps_per_epoch": per_epoch,
        "patience": None,
        "eval_every": "epoch",
        "select_by": "mean",
    }
    return over(config, Layer({"training": training, "optimizer": {"schedule": "constant"}}))


def transferred(config: Config, first: Path) -> Config:
    """Return a recipe that starts from the encoder of a finished run."""
    values = config.plain()
    # These keys apply to every encoder. Options of a plugin do not apply to the folder of a model.
    core = {key: values["encoder"][key] for key in ("pooling", "layer", "max_length")}
    values["encoder"] = {"name": str((first / ENCODER).absolute()), **core}
    values["init"] = None
    return resolve([Layer(values)])


def single_place(task: str, seed: int) -> str:
    """Return the folder of a single-task run within the study."""
    return f"{SINGLE}/{task}/seed-{seed}"


def pair_place(pair: Sequence[str], seed: int) -> str:
    """Return the folder of the run of two tasks or more; the same for every order of them."""
    return f"pair/{'+'.join(sorted(pair))}/seed-{seed}"


def transfer_place(first: str, then: str, seed: int) -> str:
    """Return the folder of a run on one task that starts from the encoder of another task's."""
    return f"transfer/{first}-{then}/seed-{seed}"


def curve(folder: Path, task: str, metric: TaskMetric) -> Curve:
    """Return the primary metric of a task at every evaluation of a run, by update."""
    key = f"eval/{task}/{metric.metric}"
    return [
        # null stands for a number that is not finite.
        (line.step, float(line.values[key]))
        for line in read_log(folder)
        if line.kind == "evaluation" and line.values.get(key) is not None
    ]


def best_of(points: Curve, metric: TaskMetric) -> float | None:
    """Return the best value of a curve; None for an empty one."""
    values = [value for _, value in points]
    return (max if metric.higher_is_better else min)(values) if values else None


def relative(together: float, alone: float, metric: TaskMetric) -> float:
    """Return the gain in percent of the metric alone; in points (x 100) where that is below `SMALLEST`."""
    sign = 1 if metric.higher_is_better else -1
    return 100 * sign * (together - alone) / (abs(alone) if abs(alone) >= SMALLEST else 1.0)


@dataclass(frozen=True)
class Gains:
    """Hold measured gains.

    Attributes:
        seeds: those of which every run is finished (S,).
        best: (S, k, k) in percent, at each task's own best evaluation; NaN on the diagonal.
        last: the same at the last evaluation.
        alone: (S, k), the metric of each task alone.
        in_points: tasks whose gains are differences in points.
    """

    seeds: tuple[int, ...]
    best: np.ndarray
    last: np.ndarray
    alone: np.ndarray
    in_points: tuple[str, ...]


def read_gains(plan: GainPlan, folder: Path, kind: Literal["pair", "transfer"]) -> Gains | None:
    """Return the gains of the seeds of which all runs are finished; None if there is no such seed."""
    done = {record.place for record in plan.study.study.records if not record.error}
    names, k = plan.tasks, len(plan.tasks)
    seeds, best, last, alone_values = [], [], [], []
    for seed in dict.fromkeys(job.seed for job in plan.study.jobs):
        places = {
            (i, j): pair_place((names[i], names[j]), seed)
            if kind == "pair"
            else transfer_place(names[i], names[j], seed)
            for i in range(k)
            for j in range(k)
            if i != j
        }
        singles = [single_place(name, seed) for name in names]
        # Whole seeds only, so that the means of all pairs are over the same seeds.
        if not {*places.values(), *singles} <= done:
            continue
        # Keyed by task too, because a run on a pair has a curve for each of its tasks.
        by_place: dict[tuple[str, str], Curve] = {}
        for (_, j), place in [*places.items(), *(((j, j), place) for j, place in enumerate(singles))]:
            by_place[place, names[j]] = curve(folder / place, names[j], plan.metrics[names[j]])
        if not all(by_place.values()):
            continue
        alone = [best_of(by_place[place, name], plan.metrics[name]) for place, name in zip(singles, names, strict=True)]
        matrices = np.full((2, k, k), np.nan)
        for (i, j), place in places.items():
            name, metric = names[j], plan.metrics[names[j]]
            points, single = by_place[place, name], by_place[singles[j], name]
            # `best_of` returns None for an empty curve alone, which is excluded above.
            matrices[0, i, j] = relative(best_of(points, metric) or 0.0, alone[j] or 0.0, metric)
            matrices[1, i, j] = relative(points[-1][1], single[-1][1], metric)
        seeds.append(seed)
        best.append(matrices[0])
        last.append(matrices[1])
        alone_values.append([value or 0.0 for value in alone])
    if not seeds:
        return None
    values = np.array(alone_values)
    # One seed below the limit is enough, because its points are part of the mean.
    in_points = tuple(name for name, column in zip(names, values.T, strict=True) if np.abs(column).min() < SMALLEST)
    return Gains(tuple(seeds), np.array(best), np.array(last), values, in_points)


def cells_of(gains: np.ndarray, last: np.ndarray | None = None) -> dict[tuple[int, int], Cell]:
    """Return the mean gain of every pair with its t interval over the seeds, its p-value, and the same corrected by Holm for all.

    Args:
        gains: (S, k, k), by seed.
    """
    k = gains.shape[1]
    pairs = [(i, j) for i in range(k) for j in range(k) if np.isfinite(gains[:, i, j]).all() and i != j]
    raw = {pair: t_test([float(value) for value in gains[:, pair[0], pair[1]]]) for pair in pairs}
    known = [pair for pair in pairs if raw[pair] is not None]
    # A p-value in `known` is never None; `or 0.0` is for the type checker.
    corrected = dict(zip(known, holm([raw[pair] or 0.0 for pair in known]), strict=True))
    cells = {}
    for pair in pairs:
        values = [float(value) for value in gains[:, pair[0], pair[1]]]
        low, high = t_interval(values) or (None, None)
        details: dict[str, float | None] = {"p": raw[pair], "p_holm": corrected.get(pair)}
        if last is not None:
            details["last"] = fmean(float(value) for value in last[:, pair[0], pair[1]])
        cells[pair] = Cell(fmean(values), low, high, len(values), details=details)
    return cells


def significant(cells: Mapping[tuple[int, int], Cell]) -> list[tuple[int, int]]:
    """Return the pairs whose gain differs from 0 after Holm's correction for all pairs."""
    return [pair for pair, cell in cells.items() if (p := cell.details.get("p_holm")) is not None and p < SIGNIFICANT]


def gains_without(
    plan: GainPlan,
    folder: Path,
    run: TrainingRun,
    leaked: Mapping[tuple[int, int], Sequence[int]],
    seeds: Sequence[int],
) -> np.ndarray:
    """Return the gains (S, k, k) without the dev rows of j that are training rows of i, for pairs that have such rows; else NaN.

    They are those of the checkpoints that the runs selected, of which alone there are predictions.

    Args:
        leaked: dev rows by pair (i, j).
    """
    names, k = plan.tasks, len(plan.tasks)
    gains = np.full((len(seeds), k, k), np.nan)
    for (i, j), rows in leaked.items():
        name = names[j]
        splits = list(run.dev[name])
        # With several dev sets, rows are numbered over all of them, and a metric is a mean over sets.
        if not rows or len(splits) != 1:
            continue
        # The first metric of a task is its primary one.
        metric: Metric = next(iter(run.metrics[name].values()))
        for number, seed in enumerate(seeds):
            values = [
                _metric_without(folder / place, name, splits[0], run, metric, rows)
                for place in (pair_place((names[i], name), seed), single_place(name, seed))
            ]
            if values[0] is not None and values[1] is not None:
                gains[number, i, j] = relative(values[0], values[1], plan.metrics[name])
    return gains


def _metric_without(
    folder: Path, task: str, split: str, run: TrainingRun, metric: Metric, rows: Sequence[int]
) -> float | None:
    path = predictions_path(folder, task, split)
    if not path.is_file():
        return None
    target = run.tasks[run.model.names.index(task)].target
    predicted, gold = Predictions(path).read(target)
    # `setdiff1d` sorts, so the rows keep their order.
    kept = np.setdiff1d(np.arange(len(gold)), np.array(rows, dtype=np.int64))
    return metric.value(predicted.take(kept), gold.take(kept)) if len(kept) else None


def fresh_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Return as many seeds as these, larger than all of them."""
    return tuple(max(seeds) + 1 + number for number in range(len(seeds)))


def group_place(tasks: Sequence[str], seed: int) -> str:
    """Return the folder of a run of a proposed group within the study."""
    return f"group/{'+'.join(sorted(tasks))}/seed-{seed}"


def plan_confirmation(
    plan: GainPlan, groups: Sequence[Sequence[str]], seeds: Sequence[int], budget: Budget
) -> StudyPlan:
    """Plan the proposed groups, one model of all tasks, and every task alone, with seeds that measured no gain.

    The seeds that chose the groups favor them, so they cannot confirm them.
    """
    study, jobs = plan.study.study, []
    # Without duplicates: a group of all tasks is the same run as the one model.
    several = dict.fromkeys(tuple(sorted(group)) for group in [*groups, plan.tasks] if len(group) > 1)
    for seed in fresh_seeds(seeds):
        for tasks in [*((name,) for name in plan.tasks), *several]:
            # A step of n tasks has n batches.
            fraction = 1 if budget == "rows" else len(tasks)
            length = max(1, study.steps // fraction), max(1, study.steps_per_epoch // fraction)
            config = seeded(_of_length(only(plan.study.base, tasks), *length), seed)
            if len(tasks) == 1:
                jobs.append(Job(single_place(tasks[0], seed), SINGLE, "single-task", seed, config))
            else:
                jobs.append(Job(group_place(tasks, seed), "group", "group", seed, config))
    return StudyPlan(study, tuple(jobs), plan.study.base, ())


def confirmed_gains(
    plan: GainPlan, folder: Path, groups: Sequence[Sequence[str]], served: Sequence[Sequence[str]], seeds: Sequence[int]
) -> dict[str, Cell]:
    """Return the mean gain over the tasks of the proposed groups, and of one model of all, over the seeds whose runs are finished.

    A task is read from the run of the group that serves it; alone it gains 0.
    """
    done = {record.place for record in plan.study.study.records if not record.error}
    choices: dict[str, list[tuple[Sequence[str], Sequence[str]]]] = {
        "these groups": list(zip(groups, served, strict=True)),
        "one model": [(plan.tasks, plan.tasks)],
    }
    cells = {}
    for title, parts in choices.items():
        means = []
        for seed in fresh_seeds(seeds):
            gains = []
            for group, members in parts:
                for name in members:
                    place = group_place(group, seed) if len(group) > 1 else single_place(name, seed)
                    if not {place, single_place(name, seed)} <= done:
                        continue
                    metric = plan.metrics[name]
                    values = [
                        best_of(curve(folder / run, name, metric), metric) for run in (place, single_place(name, seed))
                    ]
                    if values[0] is not None and values[1] is not None:
                        gains.append(relative(values[0], values[1], metric))
            # Means over different tasks could not be compared between seeds.
            if len(gains) == len(plan.tasks):
                means.append(fmean(gains))
        if means:
            low, high = t_interval(means) or (None, None)
            cells[title] = Cell(fmean(means), low, high, len(means))
    return cells
