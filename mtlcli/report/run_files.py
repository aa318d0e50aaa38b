"""The files of one run folder that a report reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli import registry
from mtlcli.config.evaluation_sets import kind_of
from mtlcli.metrics.titles import plugin_of
from mtlcli.runs.environment import Environment, read_environment
from mtlcli.runs.merge_record import MergeRecord, read_merge_record
from mtlcli.runs.metrics_log import LogLine, read_log
from mtlcli.runs.names import COMMAND, ENVIRONMENT, PLAN, predicted_splits
from mtlcli.runs.plan import Plan, read_plan
from mtlcli.runs.record import RunRecord, is_auxiliary, read_record
from mtlcli.runs.results import Predictions, Results, has_results, read_results
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.statistics.per_class import ClassScores, per_class
from mtlcli.tasks.targets import target_of

Line = Mapping[str, Any]
"""The values of a line of metrics.jsonl."""
Curve = list[tuple[float, float]]
"""Step and value."""


@dataclass(frozen=True)
class RunFiles:
    """One run, by its folder. A file that is missing reads as empty; a damaged one raises MtlError."""

    folder: Path

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return self.folder.name

    @cached_property
    def record(self) -> RunRecord:
        """run.json."""
        return read_record(self.folder)

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved recipe."""
        return self.record["config"]

    @property
    def tasks(self) -> list[str]:
        """The tasks in the order of the recipe."""
        return list(self.record["tasks"])

    @cached_property
    def results(self) -> Results:
        """results.json; empty for a run that has not finished."""
        return read_results(self.folder) if has_results(self.folder) else Results()

    @cached_property
    def plan(self) -> Plan | None:
        """plan.json, None where there is none."""
        return read_plan(self.folder) if (self.folder / PLAN).is_file() else None

    @cached_property
    def merge(self) -> MergeRecord | None:
        """merge.json, None for a run that was trained."""
        return read_merge_record(self.folder)

    @cached_property
    def environment(self) -> Environment | None:
        """environment.json, None where there is none."""
        return read_environment(self.folder) if (self.folder / ENVIRONMENT).is_file() else None

    @property
    def command(self) -> str:
        """The command that made the run, and those that resumed it."""
        path = self.folder / COMMAND
        # Arguments can contain file names that are not UTF-8.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        return "; ".join(line for line in lines if line)

    @cached_property
    def log(self) -> Sequence[LogLine]:
        """metrics.jsonl."""
        return read_log(self.folder)

    @property
    def steps(self) -> list[Line]:
        """The lines about steps."""
        return [line.values for line in self.log if line.kind == "step"]

    @property
    def evaluations(self) -> list[Line]:
        """The lines about evaluations on dev."""
        return [line.values for line in self.log if line.kind == "evaluation"]

    def dev_metrics(self, task: str) -> Mapping[str, Estimate]:
        """Return the metrics of a task on dev with their intervals; the primary metric comes first.

        For a task with several dev sets they are means over those that select checkpoints.
        """
        return self.results.tasks.get(task, {}).get("dev", {})

    def dev_results(self, task: str) -> Mapping[str, Mapping[str, Estimate]]:
        """Return the metrics of a task on dev, by the names of its sets and `mean`; by "" for a task without sets."""
        splits = {
            split: of_split for split, of_split in self.results.tasks.get(task, {}).items() if kind_of(split) == "dev"
        }
        if len(splits) == 1:
            # A single split needs no name, whatever it is called.
            return dict.fromkeys([""], *splits.values())
        return {split.partition(".")[2] or "mean": of_split for split, of_split in splits.items()}

    @cached_property
    def predictions(self) -> Mapping[str, Predictions]:
        """The predictions on dev of every task that counts and has some, in the order of the recipe.

        The key is the task, and its set if it has several: `mnli matched`.
        """
        # In the order of the recipe; the files come in alphabetical order.
        counted = [task for task, record in self.record["tasks"].items() if not is_auxiliary(record)]
        paths = predicted_splits(self.folder, "dev")
        return {
            f"{task} {split.partition('.')[2]}".rstrip(): Predictions(path)
            for name in counted
            for (task, split), path in paths.items()
            if task == name
        }

    @cached_property
    def confusions(self) -> Mapping[str, tuple[tuple[str, ...], np.ndarray]]:
        """Labels and confusion counts (C, C), targets in rows, of everything in `predictions` with classes."""
        confusions = {}
        for title, predictions in self.predictions.items():
            target = target_of(self.record["tasks"][title.partition(" ")[0]]["facts"]["target"])
            counts = target.confusion(*predictions.read(target)) if target.labels else None
            # If all labels are unknown to the model, no row is counted.
            if counts is not None and counts.any():
                confusions[title] = (tuple(target.labels or ()), counts)
        return confusions

    @cached_property
    def classes(self) -> Mapping[str, tuple[ClassScores, ...]]:
        """Precision, recall and F1 of each class of everything in `predictions` that has classes, with intervals."""
        classes = {}
        for title, predictions in self.predictions.items():
            target = target_of(self.record["tasks"][title.partition(" ")[0]]["facts"]["target"])
            scores = per_class(
                target, *predictions.read(target), groups=predictions.groups(), weights=predictions.weights()
            )
            if scores is not None:
                classes[title] = scores
        return classes


def curve(lines: Sequence[Line], key: str) -> Curve:
    """Return the values of a key over the steps, without those that were not finite."""
    # The log has null for a number that is not finite.
    return [(float(line["step"]), float(line[key])) for line in lines if line.get(key) is not None]


def metric_bounds(title: str) -> tuple[float, float]:
    """Return the worst and the best value of a metric in ascending order, infinite where it is not installed."""
    if plugin_of(title) not in registry.names("metrics"):
        return -math.inf, math.inf
    low, high = sorted(registry.load("metrics", plugin_of(title), "metric").bounds)
    return low, high
