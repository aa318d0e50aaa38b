"""The events of a run: one small record for everything that happens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtlcli.statistics.bootstrap import Estimate
from mtlcli.training.plan import Plan


@dataclass(frozen=True)
class Ready:
    """The run is set up and its plan is known; nothing is written yet."""

    plan: Plan
    folder: Path


@dataclass(frozen=True)
class Started:
    """The folder is written and the first step is next."""

    plan: Plan
    folder: Path


@dataclass(frozen=True)
class Stepped:
    """One optimizer update, counted from 1. `losses` and `weights` are by task name; `skipped` if a loss or gradient was not
    finite and the update was left out."""

    step: int
    epoch: int
    losses: Mapping[str, float]
    weights: Mapping[str, float]
    lr: float
    gradient_norm: float
    skipped: bool


@dataclass(frozen=True)
class Evaluated:
    """An evaluation on dev: metrics and mean loss by task name. `score` selects the checkpoint; None if no task has dev rows."""

    step: int
    epoch: int
    metrics: Mapping[str, Mapping[str, float]]
    losses: Mapping[str, float]
    score: float | None
    is_best: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    folder: Path


@dataclass(frozen=True)
class Notice:
    """A line for the user; a warning is shown even where everything else is quiet."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Finished:
    """The end of a run: its last step, the step whose weights were kept, the metrics on dev with intervals by task, split and
    name, and why it ended: `finished`, `patience`, `interrupted`, or `unchanged` for a run that had ended before, of which nothing
    was written."""

    step: int
    best_step: int | None
    score: float | None
    results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    seconds: float
    why: str
    folder: Path


Event = Ready | Started | Stepped | Evaluated | Saved | Notice | Finished
