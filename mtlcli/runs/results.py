"""results.json and predictions/: written when a run ends, and read by later commands."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mtlcli.errors import MtlError
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.tasks.targets import Arrays, Target


@dataclass(frozen=True)
class Predictions:
    """A file predictions/TASK.SPLIT.jsonl: the line of each row, its label (`target`) and the prediction."""

    path: Path

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of the file.

        Raises:
            MtlError: a line is not as a run writes it, or there are none.
        """
        rows = []
        with self.path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                try:
                    row = json.loads(text)
                    if not {"line", "target"} < set(row):
                        raise ValueError("no line, no target or no prediction")
                except (ValueError, TypeError) as error:
                    raise MtlError(f"{self.path}:{number}: damaged; write it again: {_remedy(self.path)}") from error
                rows.append(row)
        if not rows:
            raise MtlError(f"{self.path}: is empty; write it again: {_remedy(self.path)}")
        return rows

    def read(self, target: Target) -> tuple[Arrays, Arrays]:
        """Return predictions and labels.

        Raises:
            MtlError: they are not those of this target.
        """
        try:
            return target.from_json(self.rows), target.gold_from_json([row["target"] for row in self.rows])
        except (KeyError, TypeError) as error:
            keys = ", ".join(key for key in self.rows[0] if key not in ("line", "target"))
            raise MtlError(f"{self.path}: expected predictions of {target.describe()}, found {keys}") from error
        except ValueError as error:
            raise MtlError(f"{self.path}: {error}; write it again: {_remedy(self.path)}") from error


def _remedy(path: Path) -> str:
    """Return the command that writes a file of predictions."""
    return f"mtl eval {path.parent.parent} --split {path.name.split('.')[-2]}"


def plain_results(results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, Any]:
    """Return results as JSON values: task -> split -> metric -> value, low, high, n."""
    return {
        task: {
            split: {
                metric: {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
                for metric, estimate in metrics.items()
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


def write_predictions(path: Path, target: Target, predicted: Arrays, lines: list[int], gold: Arrays) -> None:
    """Write one JSON object for each row: its line in the file, its label and the prediction."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row, line in enumerate(lines):
            values = {"line": line, "target": target.gold_json(gold, row), **target.as_json(predicted, row, exact=True)}
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
