"""From the finished units of an affinity folder to one matrix for each measure, with intervals and reliability."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mtlcli.affinity import gains as measured_gains
from mtlcli.affinity.gains import Gains
from mtlcli.affinity.gradients import TOTAL, pair_reliability
from mtlcli.affinity.lookahead import ENOUGH as ENOUGH_MEASUREMENTS
from mtlcli.affinity.lookahead import average
from mtlcli.affinity.plan import AffinityPlan
from mtlcli.affinity.prediction import (
    gain_reliability,
    spearman,
)
from mtlcli.affinity.results import Cell, Measure, Units, directed, symmetric

USABLE = 0.5
"""Reliability below which a measure is called not measured well enough."""
NO_DIRECTION = "no direction found in this many batches"

Cells = dict[tuple[int, int], Cell]


def of_data(names: Sequence[str], units: Units) -> list[Measure]:
    words: Cells = {}
    labels: Cells = {}
    shared: Cells = {}
    for i, source in enumerate(names):
        for j, name in enumerate(names):
            line = units.get("data", [source, name])
            if line is None:
                continue
            shared[i, j] = Cell(line["sharing"] / line["dev_rows"] if line["dev_rows"] else None, n=line["dev_rows"])
            # Symmetric measures are in the line of this order alone.
            if i < j:
                words[i, j] = Cell(line["jaccard"])
                overlap = line["labels"]
                labels[i, j] = (
                    Cell(None, why="no class or score for each row, or no word in both")
                    if overlap is None
                    else Cell(
                        overlap["value"] - overlap["null"],
                        overlap["value"] - overlap["null"] - 1.96 * overlap["deviation"],
                        overlap["value"] - overlap["null"] + 1.96 * overlap["deviation"],
                        overlap["words"],
                        details={
                            "nmi": overlap["value"],
                            "null": overlap["null"],
                            "z": overlap["z"],
                            "by_sum": overlap["by_sum"],
                        },
                    )
                )
    if not shared:
        return []
    return [
        Measure("vocabulary", "share of words in common (Jaccard)", symmetric(names, words), True),
        Measure("label-overlap", "NMI of word labels above the null", symmetric(names, labels), True),
        Measure(
            "shared-rows", "share of column's dev rows with a text of row's training rows", directed(names, shared)
        ),
    ]


def of_gradients(names: Sequence[str], units: Units, warnings: list[str]) -> list[Measure]:
    """Return the mean cosine over the times of the joint run: all parameters but word embeddings, then each block."""
    lines = sorted(units.of("gradients"), key=lambda line: line["unit"])
    if not lines:
        return []
    odd, even = (_mean_of_known(np.stack([_matrix(line[half]) for line in lines])) for half in ("odd", "even"))
    reliability = pair_reliability(odd, even)
    measures = []
    for block in lines[0]["blocks"]:
        values = [_matrix(line["blocks"][block]["cosines"]) for line in lines]
        errors = [_matrix(line["blocks"][block]["errors"]) for line in lines]
        cells: Cells = {}
        for i in range(len(names)):
            for j in range(i + 1, len(names)):
                measured = [at for at, value in enumerate(values) if np.isfinite(value[i, j])]
                # `debiased_cosine` uses equally many batches of both tasks.
                batches = min(int(line["batches"][names[task]]) for line in lines for task in (i, j))
                if not measured:
                    cells[i, j] = Cell(None, n=batches, why=NO_DIRECTION)
                    continue
                mean = float(np.mean([values[at][i, j] for at in measured]))
                # The batches of each time are drawn separately, so the errors count as independent.
                reach = 1.96 * float(np.sqrt(sum(errors[at][i, j] ** 2 for at in measured))) / len(measured)
                low, high = (mean - reach, mean + reach) if np.isfinite(reach) else (None, None)
                details: dict[str, float | None] = {
                    f"after {line['unit']} updates": float(value[i, j]) if np.isfinite(value[i, j]) else None
                    for line, value in zip(lines, values, strict=True)
                }
                cells[i, j] = Cell(mean, low, high, batches, details=details)
        title = "gradient cosine, debiased" if block == TOTAL else f"gradient cosine of {block}"
        name = "gradient-cosine" if block == TOTAL else f"gradient-cosine {block}"
        measures.append(Measure(name, title, symmetric(names, cells), True, reliability if block == TOTAL else None))
    if reliability is None or reliability < USABLE:
        shown = "not known" if reliability is None else f"{reliability:.2f}"
        warnings.append(
            f"gradient-cosine: not measured well enough: its order of the pairs repeats with a reliability of {shown}"
        )
    return measures


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of what is not NaN; NaN where all are."""
    # `np.nanmean` would warn where all are NaN.
    finite = np.isfinite(values)
    counts = finite.sum(0)
    mean: np.ndarray = np.where(counts > 0, np.where(finite, values, 0.0).sum(0) / np.maximum(counts, 1), np.nan)
    return mean


def _matrix(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    return np.array([[np.nan if value is None else value for value in row] for row in rows])


def of_lookahead(names: Sequence[str], units: Units, plan: AffinityPlan, warnings: list[str]) -> list[Measure]:
    lines = sorted(units.of("lookahead"), key=lambda line: line["unit"])
    if not lines:
        return []
    rates = np.array([line["rate"] for line in lines])
    measures = []
    seed = plan.run.config.training.seed
    for name, key, title in (
        ("lookahead", "affinity", "fall of column's loss by a step for row (TAG)"),
        ("lookahead-first-order", "first_order", "the same, first-order"),
    ):
        averaged = average(np.array([line[key] for line in lines], dtype=float), rates, seed=seed)
        cells = {
            (i, j): Cell(
                float(averaged.value[i, j]), _known(averaged.low[i, j]), _known(averaged.high[i, j]), averaged.count
            )
            for i in range(len(names))
            for j in range(len(names))
            if i != j
        }
        measures.append(Measure(name, title, directed(names, cells), False, averaged.reliability))
    if len(lines) < ENOUGH_MEASUREMENTS:
        warnings.append(f"lookahead: {len(lines)} measurements; a usable matrix needs {ENOUGH_MEASUREMENTS}: --updates")
    off = ~np.eye(len(names), dtype=bool)
    agreement = spearman(measures[0].values()[off], measures[1].values()[off])
    reliability = measures[0].reliability
    if reliability is None or reliability < USABLE:
        shown = "not known" if reliability is None else f"{reliability:.2f}"
        warnings.append(
            f"lookahead: not measured well enough: its order of the pairs repeats with a reliability of {shown}; the first-order value "
            "has the same expectation for small steps"
        )
    if agreement is not None and agreement > 0.9:
        warnings.append(
            f"lookahead: the first-order value gives the same order (Spearman {agreement:.2f}), so its forward passes could be left out"
        )
    return measures


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def of_logme(names: Sequence[str], units: Units, warnings: list[str]) -> list[Measure]:
    cells: Cells = {}
    for j, name in enumerate(names):
        start = units.get("logme", [None, name])
        for i, source in enumerate(names):
            line = units.get("logme", [source, name])
            if line is None or start is None or i == j:
                continue
            if line["value"] is None or start["value"] is None:
                cells[i, j] = Cell(None, why="no class or score for each row")
            else:
                cells[i, j] = Cell(
                    line["value"] - start["value"], details={"pretrained": start["value"], "after": line["value"]}
                )
    return (
        [Measure("logme", "evidence of column's labels, row's features minus pretrained", directed(names, cells))]
        if cells
        else []
    )


def of_gains(
    plan: AffinityPlan, runs: Path, gains: Gains, leaked: Mapping[tuple[int, int], Sequence[int]], warnings: list[str]
) -> list[Measure]:
    names = list(plan.run.model.names)
    cells = measured_gains.cells_of(gains.best, gains.last)
    reliability = gain_reliability(gains.best)
    title = (
        "gain of column with row, %" if plan.options.budget == "rows" else "gain of column with row, equal compute, %"
    )
    measures = [
        Measure("gain", title, directed(names, cells), False, None if reliability is None else reliability.value)
    ]
    if len(gains.seeds) < len(plan.options.seeds):
        warnings.append(f"gain: {len(gains.seeds)} of {len(plan.options.seeds)} seeds are finished")
    if not measured_gains.significant(cells):
        count = len(gains.seeds)
        warnings.append(
            f"gain: no pair differs from 0 at {count} seed{'s' if count > 1 else ''}, after Holm's correction for {len(cells)} pairs"
        )
    if gains.in_points:
        warnings.append(
            f"gain: {', '.join(gains.in_points)}: the metric alone is below {measured_gains.SMALLEST}, so gains are in points"
        )
    if plan.gains is not None and any(leaked.values()):
        without = measured_gains.gains_without(plan.gains, runs, plan.run, leaked, gains.seeds)
        if clean := measured_gains.cells_of(without):
            measures.append(
                Measure(
                    "gain-without-leaks",
                    "gain without dev rows that row trains on, at the selected checkpoints, %",
                    directed(names, clean),
                )
            )
    return measures
