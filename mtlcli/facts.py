"""Facts about tasks and runs that every plugin may read, and seeds derived from a purpose."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtlcli.tasks.targets import Target

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TaskFacts:
    """What a plugin may know of one task before step 1.

    Attributes:
        rows: training rows.
        batches: micro-batches in which each of them occurs once.
        target: what the task predicts, fitted on the training rows.
        dev_rows: 0 for a task without dev rows, None where it is not known.
    """

    name: str
    rows: int
    batches: int
    target: Target
    dev_rows: int | None = None


@dataclass(frozen=True)
class RunFacts:
    """What a scheduler, balancer, gradient regularizer or regularizer may know of the run: the first argument of each.

    Attributes:
        tasks: in the order of the run; `tasks (k,)` tensors hold indices into them.
        micro_batches: how many micro-batches one step takes, as `training.micro_batches` says.
    """

    tasks: tuple[TaskFacts, ...]
    seed: int = 42
    micro_batches: int = 1

    def generator(self, purpose: str) -> "torch.Generator":
        """Return a random generator on the CPU that depends on the run's seed and `purpose` alone."""
        import torch  # late, so that `mtl table` does not wait for it

        return torch.Generator().manual_seed(seed_for(self.seed, purpose))


def seed_for(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from the run's seed and a purpose, so that a task or plugin does not change other random streams."""
    text = "\0".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
