"""The events that a run yields while it trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtlcli.statistics.bootstrap import Estimate
from mtlcli.training.plan import Plan


@dataclass(frozen=True)
class Ready:
    """Report that the run is set up and its plan is known; nothing is written yet."""

    plan: Plan
    folder: Path


@dataclass(frozen=True)
class Started:
    """Report that the run folder is written and the first step is next."""

    plan: Plan
    folder: Path


@dataclass(frozen=True)
class Stepped:
    """Report an optimizer update.

    Attributes:
        step: number of the update, counted from 1.
        epoch: counted from 0.
        losses: mean loss per unit, by task name.
        weights: the balancer's weights, by task name.
        lr: learning rate of the encoder.
        gradient_norm: global norm before clipping.
        skipped: True if a loss or gradient was not finite, so the optimizer made no update.
        line: the line of metrics.jsonl, None in place of numbers that are not finite.
    """

    step: int
    epoch: int
    losses: Mapping[str, float]
    weights: Mapping[str, float]
    lr: float
    gradient_norm: float
    skipped: bool
    line: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """Report an evaluation on dev: metrics and mean loss by task name.

    `score` selects the checkpoint; None if no task has dev rows. For a task with several dev sets, `metrics` and `losses` are means
    over those that select checkpoints, and `sets` holds the metrics by task and set. `line` is the line of metrics.jsonl.
    """

    step: int
    epoch: int
    metrics: Mapping[str, Mapping[str, float]]
    losses: Mapping[str, float]
    score: float | None
    is_best: bool
    sets: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    line: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """Report that a checkpoint was written."""

    step: int
    folder: Path


@dataclass(frozen=True)
class Notice:
    """Hold a line for the user; a warning is printed even with --quiet."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Finished:
    """Report the end of a run.

    Attributes:
        step: the last step.
        best_step: the step whose weights were selected; None without evaluations.
        score: the score that selected it.
        results: estimates with intervals, by task, split and metric.
        seconds: training time, including earlier parts of a resumed run.
        why: `finished`, `patience`, `interrupted`, or `unchanged` if the run was complete before and nothing was written.
        folder: the run folder.
    """

    step: int
    best_step: int | None
    score: float | None
    results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    seconds: float
    why: str
    folder: Path


Event = Ready | Started | Stepped | Evaluated | Saved | Notice | Finished
