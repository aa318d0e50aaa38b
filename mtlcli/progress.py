"""Where a run is: what a checkpoint holds besides tensors, and the best one so far."""

from dataclasses import dataclass, field
from pathlib import Path

from mtlcli import checkpoint
from mtlcli.checkpoint import Checkpoint
from mtlcli.errors import MtlError
from mtlcli.optimization import Plateau


@dataclass
class Progress:
    """What a checkpoint holds besides tensors: where the run is and what it has seen."""

    step: int = 0
    cursors: list[int] = field(default_factory=list)
    epoch_sums: dict[str, float] = field(default_factory=dict)
    epoch_counts: dict[str, int] = field(default_factory=dict)
    best_step: int | None = None
    best_score: float | None = None
    evaluations_without_better: int = 0
    skipped_in_a_row: int = 0
    skipped: int = 0
    seconds: float = 0.0
    plateau: Plateau = field(default_factory=Plateau)


def best_checkpoint(folder: Path, step: int) -> Checkpoint:
    """The best checkpoint of the run. Raises MtlError where it is damaged."""
    place = folder / "checkpoints" / f"step-{step}"
    problem = checkpoint.damage(place)
    if problem is not None:
        raise MtlError(f"{place}: the best checkpoint is damaged: {problem}")
    return Checkpoint(place, step)
