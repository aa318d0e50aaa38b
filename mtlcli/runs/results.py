"""results.json and predictions/: written when a run ends, and read by later commands."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.errors import MtlError
from mtlcli.files import cannot_write, discard, put, read_sealed_as, remove_abandoned, scratch_path, write_sealed
from mtlcli.runs.names import ENSEMBLE, RESULTS, resume_command
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.statistics.groups import RowGroups
from mtlcli.statistics.per_class import ClassScores
from mtlcli.tasks.targets import Arrays, Target

FORMAT = 2
GROUP, WEIGHT = "group", "weight"
"""Keys of a row's group and of its weight in a file of predictions."""


@dataclass(frozen=True)
class Results:
    """results.json: metrics by task, split and name, and how the run ended.

    `auxiliary` are the tasks that do not count; they have no metrics. `why` is "finished" or "patience", `selected_step` the step
    of the weights that were kept. An ensemble, which is measured and not trained, has only the metrics and `auxiliary`.
    """

    tasks: dict[str, dict[str, dict[str, Estimate]]] = field(default_factory=dict)
    auxiliary: tuple[str, ...] | None = None
    why: str | None = None
    steps: int | None = None
    selected_step: int | None = None
    select_by: str | None = None
    score: float | None = None
    seconds: float | None = None
    skipped_steps: int | None = None


def is_finished(run: Path) -> bool:
    """Return whether a run has results that can be read: they are written last, and removed when a run is resumed."""
    try:
        read_results(run)
    except MtlError:
        return False
    return True


def has_results(folder: Path) -> bool:
    """Return whether there is a results.json, damaged or not."""
    return (folder / RESULTS).is_file()


def read_results(folder: Path) -> Results:
    """Return the results of a run or an ensemble. Raise MtlError, one line, where they are missing or damaged."""
    path = folder / RESULTS
    if not path.is_file() and not (folder / ENSEMBLE).is_file():
        raise MtlError(f"{folder}: is not finished (no {RESULTS}); resume it with: {resume_command(folder)}")
    return read_sealed_as(Results, path, FORMAT, _cure(folder), printed=True)  # mtl eval --json > results.json


def write_results(folder: Path, results: Results) -> None:
    """Write results.json. Raise MtlError where it cannot be written."""
    values = {name: value for name in Results.__dataclass_fields__ if (value := getattr(results, name)) is not None}
    del values["tasks"]
    write_sealed(folder / RESULTS, {**values, "tasks": plain_results(results.tasks)}, FORMAT)


def add_results(
    folder: Path, tasks: Mapping[str, Mapping[str, Mapping[str, Estimate]]], auxiliary: Sequence[str] = ()
) -> None:
    """Add metrics to an ensemble's results.json; other tasks and splits in it stay. A damaged file is replaced."""
    try:
        before = read_results(folder)
    except MtlError:
        before = Results()
    merged = dict(before.tasks)
    for task, splits in tasks.items():
        merged[task] = {**merged.get(task, {}), **{split: dict(metrics) for split, metrics in splits.items()}}
    write_results(folder, replace(before, tasks=merged, auxiliary=tuple(auxiliary) or None))


def _cure(folder: Path) -> str:
    command = f"mtl eval {folder}" if (folder / ENSEMBLE).is_file() else resume_command(folder)
    return f"write it again: {command}"


@dataclass(frozen=True)
class Predictions:
    """A file predictions/TASK.SPLIT.jsonl: the line of each row, its label (`target`), its group and weight if any, and the prediction."""

    path: Path

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of the file.

        Raises:
            MtlError: a line is not as a run writes it, or there are none.
        """
        rows: list[dict[str, Any]] = []
        with self.path.open("rb") as file:  # as bytes, so that damaged text is an error of its line
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                    # A proper subset, because the prediction needs a key of its own.
                    if not {"line", "digest", "target"} < set(row):
                        raise ValueError("no line, digest or target, or no prediction")
                    # The first row decides whether there are groups and weights.
                    if rows and row.keys() != rows[0].keys():
                        raise ValueError("other keys than the first row")
                except (ValueError, TypeError, AttributeError) as error:
                    raise MtlError(f"{self.path}:{number}: damaged; write it again: {_remedy(self.path)}") from error
                rows.append(row)
        if not rows:
            raise MtlError(f"{self.path}: is empty; write it again: {_remedy(self.path)}")
        return rows

    def read(self, target: Target, *, like: "Predictions | None" = None) -> tuple[Arrays, Arrays]:
        """Return predictions and labels, in the order of the file or of another one with the same texts (`like`).

        Raises:
            MtlError: they are not those of this target.
        """
        rows = self.rows if like is None else self.in_order_of(like)
        try:
            return target.from_json(rows), target.gold_from_json([row["target"] for row in rows])
        except (KeyError, TypeError) as error:
            keys = ", ".join(key for key in self.rows[0] if key not in ("line", "digest", "target", GROUP, WEIGHT))
            raise MtlError(f"{self.path}: expected predictions of {target.describe()}, found {keys}") from error
        except ValueError as error:
            raise MtlError(f"{self.path}: {error}; write it again: {_remedy(self.path)}") from error

    def groups(self, *, like: "Predictions | None" = None) -> RowGroups | None:
        """Return the groups of the rows, in the order of `read`; None if the file has none."""
        if GROUP not in self.rows[0]:
            return None
        rows = self.rows if like is None else self.in_order_of(like)
        # null is a row that is a group of its own.
        return RowGroups.of([str(row[GROUP] or "") for row in rows])

    def weights(self, *, like: "Predictions | None" = None) -> np.ndarray | None:
        """Return the weights of the rows (n,), in the order of `read`; None if the file has none."""
        if WEIGHT not in self.rows[0]:
            return None
        rows = self.rows if like is None else self.in_order_of(like)
        return np.array([float(row[WEIGHT]) for row in rows])

    @cached_property
    def keys(self) -> dict[tuple[str, int], int]:
        """Place of each row by the digest of its texts and how many rows before it have the same texts."""
        seen: Counter[str] = Counter()
        keys = {}
        for place, row in enumerate(self.rows):
            keys[row["digest"], seen[row["digest"]]] = place
            seen[row["digest"]] += 1
        return keys

    def missing_from(self, other: "Predictions") -> int:
        """Return how many of these rows have texts that the other file does not have, or not as often."""
        return len(self.keys.keys() - other.keys.keys())

    def in_order_of(self, other: "Predictions") -> list[dict[str, Any]]:
        """Return the rows in the order of a file with the same texts."""
        return [self.rows[self.keys[key]] for key in other.keys]


def _remedy(path: Path) -> str:
    """Return the command that writes a file of predictions."""
    return f"mtl eval {path.parent.parent} --split {path.name.removesuffix('.jsonl').partition('.')[2]}"


def plain_results(results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, Any]:
    """Return results as JSON values: task -> split -> metric -> value, low, high, n, interval, and groups or sets if there are."""
    return {
        task: {
            split: {metric: _plain_estimate(estimate) for metric, estimate in metrics.items()}
            for split, metrics in splits.items()
        }
        for task, splits in results.items()
    }


def _plain_estimate(estimate: Estimate) -> dict[str, Any]:
    return (
        {
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "interval": estimate.interval,
        }
        | ({} if estimate.groups is None else {"groups": estimate.groups})
        | ({"sets": list(estimate.sets)} if estimate.sets else {})
    )


def plain_classes(classes: Mapping[str, Mapping[str, Sequence[ClassScores]]]) -> dict[str, Any]:
    """Return scores of classes as JSON values: task -> split -> a list with class, support, predicted and its three estimates."""
    return {
        task: {
            split: [
                {
                    "class": scores.label,
                    "support": scores.support,
                    "predicted": scores.predicted,
                    "precision": _plain_estimate(scores.precision),
                    "recall": _plain_estimate(scores.recall),
                    "f1": _plain_estimate(scores.f1),
                }
                for scores in of_split
            ]
            for split, of_split in splits.items()
        }
        for task, splits in classes.items()
    }


def write_predictions(
    path: Path, target: Target, predicted: Arrays, lines: list[int], gold: Arrays, hashes: np.ndarray,
    groups: RowGroups | None = None, weights: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write one JSON object for each row: its line in the file, the digest of its texts, its label and the prediction.

    If there are groups, it also has the row's group, null for a row that is a group of its own; if there are weights (n,), the row's
    weight. Rows of two runs are matched by the
    digest (`Split.hashes`, in hexadecimal), because line numbers can agree by chance.

    Raises:
        MtlError: the file cannot be written.
    """
    scratch = scratch_path(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        _write_rows(scratch, target, predicted, lines, gold, hashes, groups, weights)
        put(scratch, path)
    except OSError as error:
        discard(scratch)
        raise cannot_write(path, error) from error


def _write_rows(
    path: Path, target: Target, predicted: Arrays, lines: list[int], gold: Arrays, hashes: np.ndarray,
    groups: RowGroups | None, weights: np.ndarray | None,
) -> None:  # fmt: skip
    with path.open("w", encoding="utf-8") as file:
        for row, line in enumerate(lines):
            # A digest in hexadecimal, because many JSON readers round integers above 2**53.
            place = {"line": line, "digest": f"{int(hashes[row]):016x}", "target": target.gold_json(gold, row)}
            if groups is not None:
                place[GROUP] = groups.name(row) or None
            if weights is not None:
                place[WEIGHT] = float(weights[row])
            # Not rounded, because `mtl compare` computes metrics from these values.
            values = place | target.as_json(predicted, row, exact=True)
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
