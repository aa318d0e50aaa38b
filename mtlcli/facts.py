"""Facts about tasks and runs that every plugin may read, and seeds derived from a purpose."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.targets import Target

if TYPE_CHECKING:
    import torch

Coupling = Literal["rows", "batch", "memory"]
"""What a loss depends on besides the row: nothing (`rows`), the other rows of its micro-batch (`batch`), or also earlier
micro-batches (`memory`). Several processes divide the rows of a micro-batch only where its loss is of rows."""


@dataclass(frozen=True)
class TaskFacts:
    """Describe a task to plugins before step 1.

    Attributes:
        rows: number of training rows.
        batches: micro-batches in one pass over them.
        target: the prediction target, fitted on the training rows.
        dev_rows: number of dev rows, 0 for a task without; None if unknown.
        class_loss: what changes the cross-entropy of its classes in training; plain in a finished run.
        head_guess: loss per unit of a model that knows nothing of the text, as its head states it; None: that of the target.
    """

    name: str
    rows: int
    batches: int
    target: Target
    dev_rows: int | None = None
    class_loss: ClassLoss = field(default_factory=ClassLoss)
    head_guess: float | None = None

    @property
    def dev_guess(self) -> float:
        """Return the loss per unit on dev of a model that knows nothing of the text."""
        return self.target.guess if self.head_guess is None else self.head_guess

    @property
    def guess(self) -> float:
        """Return the training loss per unit of a model that knows nothing of the text."""
        classes = self.target.alternatives
        # A target without classes, such as a score, has no cross-entropy to scale.
        return self.dev_guess * (self.class_loss.scale(classes) if classes > 1 else 1.0)


@dataclass(frozen=True)
class RunFacts:
    """Describe the run to a scheduler, balancer, gradient regularizer or regularizer: the first argument of each.

    Attributes:
        tasks: in the order of the run; `tasks (k,)` tensors hold indices into them.
        seed: seed of the run.
        micro_batches: micro-batches per step, `training.micro_batches`.
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
    # No name contains a NUL byte, so different purposes never join to the same text.
    text = "\0".join([str(seed), *map(str, purpose)])
    # A digest, because `hash` of a text differs between processes. Shifted to fit a signed 64-bit integer.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
