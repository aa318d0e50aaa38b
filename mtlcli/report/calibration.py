"""Reliability diagrams of the tasks with classes: accuracy against confidence, with the calibration error beside them."""

from typing import Any

from mtlcli.metrics.calibration_error import BINS, CalibrationError, Reliability
from mtlcli.report import svg
from mtlcli.report.run_files import RunFiles
from mtlcli.runs.record import stored_facts
from mtlcli.statistics.bootstrap import estimate, weighted_rows

METRIC = "calibration-error"
"""Name of the metric whose option `bins` the diagrams follow."""


def reliability_charts(run: RunFiles) -> list[str]:
    """Return a diagram for each task on dev whose predictions have probabilities of classes, and for each of its sets."""
    charts = []
    facts_of = {facts.name: facts for facts in stored_facts(run.record)}
    for title, predictions in run.predictions.items():
        # The set of a task follows its name after a space, which no name contains.
        name = title.partition(" ")[0]
        facts = facts_of[name]
        if facts.target.kind not in CalibrationError.measures:
            continue
        predicted, gold = predictions.read(facts.target)
        # Labels alone have no confidence.
        if "probabilities" not in predicted:
            continue
        metric = CalibrationError(facts, bins=_bins_of(run.record["tasks"][name]["config"]))
        groups, weights = predictions.groups(), predictions.weights()
        error = estimate(metric, predicted, gold, groups=groups, weights=weights)
        # `estimate` ignores rows of weight 0, so the bins must not count them.
        predicted, gold, _, weights = weighted_rows(predicted, gold, groups, weights)
        bins = Reliability.of(predicted, gold, metric.bins, weights)
        counted = ", counted by weight," if weights is not None else ""
        note = (
            f"Calibration error {error.value:.4f} (95 %: {error.low:.4f} to {error.high:.4f}), {error.n} rows{counted} in {metric.bins} "
            "bins of confidence."
        )
        rows = list(zip(bins.rows.tolist(), bins.confidence.tolist(), bins.accuracy.tolist(), strict=True))
        charts.append(svg.reliability(f"{title}: accuracy by confidence", rows, note))
    return charts


def _bins_of(section: dict[str, Any]) -> int:
    """Return the bins of the first calibration error among a task's metrics."""
    for metric in section.get("metrics") or ():
        if isinstance(metric, dict) and metric.get("name") == METRIC:
            return int(metric.get("bins", BINS))
    return BINS
