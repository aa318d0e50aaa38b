"""Facts about tasks and runs that every plugin may know, and seeds derived from a purpose."""

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TaskFacts:
    """What a plugin may know of one task before step 1.

    `dev_rows` is 0 for a task without dev rows, None where it is not known. `labels` are the class names in index order; None
    for a task that predicts a score. `score_range`, `score_mean` and `score_std` are in the units of the data file and
    describe the training rows; None for a task that predicts classes.
    """

    name: str
    rows: int
    batches: int
    labels: tuple[str, ...] | None = None
    score_range: tuple[float, float] | None = None
    score_mean: float | None = None
    score_std: float | None = None
    dev_rows: int | None = None

    @property
    def is_regression(self) -> bool:
        """Whether the task predicts a score instead of a class."""
        return self.labels is None


@dataclass(frozen=True)
class RunFacts:
    """What a scheduler, balancer, gradient regularizer or regularizer may know of the run: first argument of each.

    `tasks` are in the order of the run; an index into them is what `tasks (k,)` tensors hold everywhere.
    `micro_batches` is the number of micro-batches that `training.micro_batches` asks of one step.
    """

    tasks: tuple[TaskFacts, ...]
    seed: int = 42
    micro_batches: int = 1

    def generator(self, purpose: str) -> torch.Generator:
        """A random generator on the CPU that depends on the run's seed and `purpose` alone."""
        return torch.Generator().manual_seed(seed_for(self.seed, purpose))


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's seed and what it is for: adding a task or a plugin changes nobody else's numbers."""
    text = "\0".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
