"""The summary of an affinity folder, made of its finished units and runs: matrices, a grouping, and what predicts the gains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.affinity import gains as measured_gains
from mtlcli.affinity.gains import RUNS, Gains, read_gains
from mtlcli.affinity.gradients import TOTAL, WORDS
from mtlcli.affinity.grouping import MOST, draw_affinities, group_tasks, stability, value_of
from mtlcli.affinity.labels import LabelStatistics, label_statistics
from mtlcli.affinity.matrices import USABLE, of_data, of_gains, of_gradients, of_logme, of_lookahead
from mtlcli.affinity.plan import AffinityPlan
from mtlcli.affinity.prediction import (
    ENOUGH_TASKS,
    FEWEST_TASKS,
    Interval,
    Prediction,
    Reliability,
    gain_reliability,
    predictions,
    winner,
)
from mtlcli.affinity.results import Affinity, Measure, PredictionRow, Proposal, Units, directed
from mtlcli.facts import seed_for
from mtlcli.training.setup import TrainingRun


def summarize(plan: AffinityPlan, folder: Path, units: Units) -> Affinity:
    """Return the summary of everything that is finished in a folder."""
    run, names = plan.run, list(plan.run.model.names)
    labels = {task.task.name: label_statistics(task.target, task.splits["train"].gold) for task in run.tasks}
    measures: list[Measure] = []
    warnings: list[str] = []
    leaked, leak_lines = _leaks(names, units)
    measures += of_data(names, units)
    measures += of_gradients(names, units, warnings)
    measures += of_lookahead(names, units, plan, warnings)
    measures += of_logme(names, units, warnings)
    gains = None if plan.gains is None else read_gains(plan.gains, folder / RUNS, "pair")
    if plan.gains is not None and gains is not None:
        measures += of_gains(plan, folder / RUNS, gains, leaked, warnings)
    transfer = None if plan.gains is None else read_gains(plan.gains, folder / RUNS, "transfer")
    if transfer is not None:
        cells = measured_gains.cells_of(transfer.best, transfer.last)
        measures.append(Measure("transfer", "gain of column after row, %", directed(names, cells)))
    proposal = _proposal(plan, folder, names, measures, warnings)
    rows, verdict, reliability = predict_gains(run, labels, measures, gains)
    heads = units.get("heads", "all")
    return Affinity(
        names,
        plan.settings | {"seeds": list(plan.options.seeds), "measures": list(plan.options.measures)},
        labels,
        measures,
        proposal,
        rows,
        verdict,
        reliability,
        _heads(heads, warnings),
        _directions(names, units),
        _curves(plan, folder / RUNS),
        leak_lines,
        warnings,
        {line.what: line.seconds for line in plan.cost.lines},
    )


def _leaks(names: Sequence[str], units: Units) -> tuple[dict[tuple[int, int], list[int]], list[str]]:
    """Return the dev rows of j among the training rows of i, by (i, j), and lines about them."""
    leaked, lines = {}, []
    for i, source in enumerate(names):
        for j, name in enumerate(names):
            line = units.get("data", [source, name])
            if line is None or not line["sharing"]:
                continue
            leaked[i, j] = [int(row) for row in line["leaked"]]
            lines.append(
                f"{name}: {line['sharing']} of {line['dev_rows']} dev rows share a text with training rows of {source}, "
                f"{len(line['leaked'])} of them all texts"
            )
    return leaked, lines


def _proposal(
    plan: AffinityPlan, folder: Path, names: list[str], measures: Sequence[Measure], warnings: list[str]
) -> Proposal | None:
    """Return the proposed groups by measured gains, else by a lookahead that repeats; None without either."""
    by_name = {measure.name: measure for measure in measures}
    source = by_name.get("gain")
    if source is None:
        ahead = by_name.get("lookahead")
        if ahead is not None and (ahead.reliability or 0.0) >= USABLE:
            source = ahead
            warnings.append(
                "grouping: by lookahead, where nearly every pair is positive early, so a task alone is rarely chosen"
            )
    if source is None:
        return None
    if len(names) > MOST:
        warnings.append(
            f"grouping: {len(names)} tasks; the search is exact up to {MOST}, so none is proposed; leave tasks out with --task"
        )
        return None
    values = source.values()
    grouping = group_tasks(values, plan.options.models)
    low, high = source.ends()
    share, together, draws = None, None, 0
    if np.isfinite(low).any():
        stable = stability(
            # An unknown value counts as 0, as in `group_tasks`.
            draw_affinities(np.nan_to_num(values), low, high, seed_for(plan.run.config.training.seed, "grouping")),
            plan.options.models,
            grouping,
        )
        share, together, draws = stable.share, stable.together.tolist(), stable.draws
    if share is None or share < USABLE:
        reason = (
            "its stability is not known with one seed" if share is None else f"it wins in {100 * share:.0f} % of draws"
        )
        warnings.append(
            f"grouping: no grouping is supported ({reason}); one model for all, or one per task, may be as good"
        )
    groups = [[names[task] for task in group] for group in grouping.groups]
    served = [[names[task] for task in part] for part in grouping.served]
    confirmed = {}
    if plan.gains is not None:
        confirmed = measured_gains.confirmed_gains(plan.gains, folder / RUNS, groups, served, plan.options.seeds)
    return Proposal(
        source.name,
        plan.options.models,
        groups,
        served,
        grouping.value,
        value_of(values, [range(len(names))]),
        share,
        together,
        draws,
        confirmed,
    )


def baselines(run: TrainingRun, labels: Mapping[str, LabelStatistics], gains: Gains | None) -> dict[str, np.ndarray]:
    """Return predictors that need no measurement (k, k): a measure that is worth its cost beats these.

    Rows of the source, rows of the receiver (negative: the fewer, the more there is to gain), whether both tasks are of the same kind,
    entropy and kurtosis of the source's labels, and the metric of the receiver alone (negative: room to grow).
    """
    k, names = len(run.tasks), run.model.names
    rows = np.array([float(fact.rows) for fact in run.facts])
    kinds = [(task.target.kind, run.config.tasks[task.task.name].encoding) for task in run.tasks]
    predictors = {
        "rows of source": np.repeat(rows[:, None], k, 1),
        "fewer rows of receiver": np.repeat(-rows[None], k, 0),
        "same kind of task": np.array([[float(kinds[i] == kinds[j]) for j in range(k)] for i in range(k)]),
    }
    for title, key in (
        ("label entropy of source", "normalized_entropy"),
        ("label kurtosis of source", "share_kurtosis"),
    ):
        values = np.array([np.nan if (value := getattr(labels[name], key)) is None else value for name in names])
        # A single known value has no order.
        if np.isfinite(values).sum() > 1:
            predictors[title] = np.repeat(values[:, None], k, 1)
    if gains is not None:
        predictors["lower metric of receiver alone"] = np.repeat(-gains.alone.mean(0)[None], k, 0)
    for matrix in predictors.values():
        matrix[np.diag_indices(k)] = np.nan
    return predictors


# What is to be predicted, and transfer, which needs more runs than the gains themselves.
NOT_PREDICTORS = ("gain", "gain-without-leaks", "transfer")


def predict_gains(
    run: TrainingRun, labels: Mapping[str, LabelStatistics], measures: Sequence[Measure], gains: Gains | None
) -> tuple[list[PredictionRow], str, list[float] | None]:
    """Return how well every measure predicts the gains, a sentence about it, and the reliability of the gains."""
    if gains is None:
        return [], "No gains were measured, so nothing is said about predicting them.", None
    k = len(run.tasks)
    if k < FEWEST_TASKS:
        return [], f"{k} tasks: too few for a correlation, so only the {k * (k - 1)} gains are shown.", None
    of_measures = {
        measure.name: measure.values()
        for measure in measures
        if measure.name not in NOT_PREDICTORS
        and (measure.name == "gradient-cosine" or not measure.name.startswith("gradient-cosine "))
    }
    candidates = of_measures | baselines(run, labels, gains)
    reliability = gain_reliability(gains.best)
    found, drawn = predictions(
        candidates, gains.best, reliabilities={measure.name: measure.reliability for measure in measures}
    )
    rows = [
        PredictionRow(
            row.measure,
            _listed(row.rho),
            _listed(row.within),
            None if row.over_tasks is None else _listed(row.over_tasks),
            row.pairs,
            row.ceiling,
        )
        for row in found
    ]
    shown = None if reliability is None else [reliability.value, reliability.low, reliability.high]
    return rows, verdict(found, winner(drawn, found), reliability, k), shown


def _listed(interval: Interval) -> list[float | None]:
    return [interval.value, interval.low, interval.high]


def verdict(found: Sequence[Prediction], best: str | None, reliability: Reliability | None, tasks: int) -> str:
    """Return in words what can be said of the predictions."""
    if reliability is None:
        first = "With one seed, it is not known whether the gains repeat."
    elif not reliability.repeats:
        return (
            f"The gains themselves do not repeat from seed to seed (reliability {reliability.value:.2f}, interval {reliability.low:.2f} to "
            f"{reliability.high:.2f}), so nothing can be shown to predict them: the measurement is too small."
        )
    else:
        first = f"The order of the gains repeats with a reliability of {reliability.value:.2f}."
    clear = [
        row
        for row in found
        if row.rho.low is not None and row.rho.high is not None and (row.rho.low > 0 or row.rho.high < 0)
    ]
    if not clear:
        second = "No measure has a correlation with the gains whose interval excludes 0."
    else:
        names = ", ".join(f"{row.measure} ({row.rho.value:+.2f})" for row in clear)
        second = f"Correlations whose interval excludes 0, among {len(found)} measures: {names}."
    third = (
        f"Best: {best}." if best is not None else "No measure is better than every other one by more than its interval."
    )
    few = f" {tasks} tasks are too few to tell." if tasks < ENOUGH_TASKS else ""
    return f"{first} {second} {third}{few}"


def _heads(line: Mapping[str, Any] | None, warnings: list[str]) -> dict[str, dict[str, float | bool | None]]:
    if line is None:
        return {}
    heads = {name: dict(fit) for name, fit in line["heads"].items()}
    for name, fit in heads.items():
        fit["beats_guess"] = fit["loss"] < fit["guess"]
        if not fit["beats_guess"]:
            warnings.append(
                f"{name}: its fitted head is no better than a guess on held-out rows (loss {fit['loss']:.3f}, guess {fit['guess']:.3f}), "
                "so its gradients say little"
            )
    return heads


def _directions(names: Sequence[str], units: Units) -> dict[str, dict[str, float | None]]:
    """Return signal share and reliability of each task's gradient, by task: the means over the times of the joint run."""
    lines = units.of("gradients")
    if not lines:
        return {}
    directions: dict[str, dict[str, float | None]] = {}
    for task, name in enumerate(names):
        directions[name] = {
            "share": float(np.mean([line["blocks"][TOTAL]["share"][task] for line in lines])),
            "reliability": float(np.mean([line["blocks"][TOTAL]["reliability"][task] for line in lines])),
            "batches": float(np.mean([line["batches"][name] for line in lines])),
            # Frozen word embeddings have no block.
            "share of word embeddings": float(np.mean([line["blocks"][WORDS]["share"][task] for line in lines]))
            if WORDS in lines[0]["blocks"]
            else None,
        }
    return directions


def _curves(plan: AffinityPlan, runs: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Return the dev metric of each task by update, alone and with each other task, for the first seed."""
    if plan.gains is None:
        return {}
    seed, curves = plan.options.seeds[0], {}
    names = plan.gains.tasks
    for name in names:
        places = {"alone": measured_gains.single_place(name, seed)}
        places |= {f"with {other}": measured_gains.pair_place((name, other), seed) for other in names if other != name}
        curves[name] = {
            title: [
                [float(step), value]
                for step, value in measured_gains.curve(runs / place, name, plan.gains.metrics[name])
            ]
            for title, place in places.items()
        }
    return curves
