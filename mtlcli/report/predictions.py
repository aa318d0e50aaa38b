"""From the predictions of a task on dev to tables and charts: classes, baselines, scores against labels."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mtlcli.report import svg
from mtlcli.runs.results import Predictions


def baselines(predictions: Predictions) -> list[tuple[str, float, float, str]]:
    """Return (metric, the model's value, the baseline's value, the baseline) for a task.

    The baseline answers every row alike: with the most frequent dev label, or with the mean dev score. It has seen the
    dev labels, so a model below it has learned nothing of use.
    """
    rows = predictions.rows
    if has_labels(rows):
        targets = Counter(row["target"] for row in rows if row["target"] is not None)
        if not targets:
            return []
        label, count = targets.most_common(1)[0]
        accuracy = sum(row["target"] == row["label"] for row in rows) / len(rows)
        return [("accuracy", accuracy, count / len(rows), f"always {label}")]
    if not has_scores(rows):
        return []
    mean = statistics.fmean(row["target"] for row in rows)
    errors = [row["score"] - row["target"] for row in rows]
    distances = [mean - row["target"] for row in rows]
    name = f"always the mean, {mean:.3g}"
    return [
        ("root mean squared error", _root_mean_square(errors), _root_mean_square(distances), name),
        ("mean absolute error", statistics.fmean(map(abs, errors)), statistics.fmean(map(abs, distances)), name),
    ]


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(statistics.fmean(value * value for value in values))


def score_charts(task: str, predictions: Predictions) -> list[str]:
    """Return predicted score against label, and the residual against label; empty for a task without scores."""
    if not has_scores(predictions.rows):
        return []
    pairs = [(float(row["target"]), float(row["score"])) for row in predictions.rows]
    residuals = [(target, score - target) for target, score in pairs]
    return [
        svg.scatter(f"{task}: predicted score against label", pairs, "label", "score", diagonal=True),
        svg.scatter(f"{task}: residual against label", residuals, "label", "score - label"),
    ]


def worst(predictions: Predictions, count: int) -> list[Mapping[str, Any]]:
    """Return the rows with the worst predictions: wrong labels with the largest probability, or the largest residuals.

    It is empty for a task with neither labels nor scores.
    """
    rows: list[Mapping[str, Any]] = list(predictions.rows)
    if has_labels(rows):
        wrong = [row for row in rows if row["label"] != row["target"]]
        # Without probabilities all wrong labels are equal, and remain in the order of the file.
        return sorted(wrong, key=lambda row: -(row.get("probabilities") or {}).get(row["label"], 1.0))[:count]
    if has_scores(rows):
        return sorted(rows, key=lambda row: -abs(row["score"] - row["target"]))[:count]
    return []


def has_labels(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether every row has one label, and the prediction names one."""
    # All rows have the same keys. A distribution has a label as well, but its target maps classes to shares.
    return isinstance(rows[0].get("label"), str) and not isinstance(rows[0].get("target"), dict)


def has_scores(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether every row has a score."""
    return isinstance(rows[0].get("score"), int | float)
