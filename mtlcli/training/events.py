"""What a run tells whoever reads it: one small record for everything that happens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtlcli.statistics.bootstrap import Estimate
from mtlcli.training.plan import Plan


@dataclass(frozen=True)
class Started:
    """The plan, before the first step."""

    plan: Plan
    folder: Path


@dataclass(frozen=True)
class Stepped:
    """One optimizer update, counted from 1. losses and weights are by task name; `skipped` where it was left out."""

    step: int
    epoch: int
    losses: Mapping[str, float]
    weights: Mapping[str, float]
    lr: float
    gradient_norm: float
    skipped: bool


@dataclass(frozen=True)
class Evaluated:
    """An evaluation on dev: metrics and mean loss by task name; score is None where nothing is selected by."""

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
    """Something worth a line."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end: the step whose weights were kept, the metrics on dev with intervals, and why the run ended: `finished`,
    `patience` or `interrupted`."""

    step: int
    best_step: int | None
    score: float | None
    results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    seconds: float
    why: str


Event = Started | Stepped | Evaluated | Saved | Notice | Finished
