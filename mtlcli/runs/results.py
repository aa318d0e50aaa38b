"""results.json and predictions/: written when a run ends, and read by every later command."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mtlcli.errors import MtlError
from mtlcli.model.predict import Predicted
from mtlcli.statistics.bootstrap import Estimate


@dataclass(frozen=True)
class Predictions:
    """What a run left of one task and split: the line of each row, its target and the prediction, as they are in the file."""

    path: Path

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of the file. Raises MtlError for one that is not what a run writes."""
        rows = []
        with self.path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                try:
                    row = json.loads(text)
                    if not ({"line", "target"} <= set(row) and ("label" in row) != ("score" in row)):
                        raise ValueError
                except (ValueError, TypeError) as error:
                    raise MtlError(f"{self.path}:{number}: damaged; write it again: {_remedy(self.path)}") from error
                rows.append(row)
        if not rows:
            raise MtlError(f"{self.path}: is empty; write it again: {_remedy(self.path)}")
        return rows

    @property
    def kind(self) -> str:
        """`label` or `score`."""
        return "label" if "label" in self.rows[0] else "score"


def _remedy(path: Path) -> str:
    """The command that writes a file of predictions."""
    return f"mtl eval {path.parent.parent} --split {path.name.split('.')[-2]}"


def plain_results(results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, Any]:
    """Results as JSON values: task -> split -> metric -> value, low, high, n."""
    return {
        task: {
            split: {
                metric: {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
                for metric, one in metrics.items()
            }
            for split, metrics in splits.items()
        }
        for task, splits in results.items()
    }


def read_results(run: Path) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Read the metrics of a finished run by task, split and name.

    Raises:
        MtlError: the run is not finished, or results.json is damaged.
    """
    path = run / "results.json"
    if not path.is_file():
        raise MtlError(f"{run}: is not finished (no results.json); resume it with: mtl train --resume --output {run}")
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))["tasks"]
        return {
            task: {
                split: {metric: Estimate(**values) for metric, values in metrics.items()}
                for split, metrics in splits.items()
            }
            for task, splits in tasks.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MtlError(
            f"{path}: damaged; write it again from the checkpoint: mtl train --resume --output {run}"
        ) from error


def write_predictions(
    path: Path, labels: tuple[str, ...] | None, predicted: Predicted, lines: list[int], targets: Any
) -> None:
    """One JSON object a row: its line in the file, what was expected and what was predicted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row, line in enumerate(lines):
            if labels is None:
                found: dict[str, Any] = {
                    "line": line,
                    "target": float(targets[row]),
                    "score": float(predicted.values[row]),
                }
            else:
                target = int(targets[row])
                found = {
                    "line": line,
                    "target": labels[target] if target >= 0 else None,
                    "label": labels[int(predicted.values[row])],
                }
                if predicted.probabilities is not None:
                    found["probabilities"] = dict(
                        zip(labels, (round(float(p), 6) for p in predicted.probabilities[row]), strict=True)
                    )
            file.write(json.dumps(found, ensure_ascii=False) + "\n")
