"""The micro-batches of a step, and which of them one pass of the encoder can serve."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from mtlcli.data.batches import Batch


@dataclass(frozen=True)
class TaskLoss:
    """Hold one task of a step: the micro-batches of its loss, and the weight of its visit (`Visit.weight`).

    Attributes:
        batches: the rows that this process works on; with several processes a part of each micro-batch, without empty parts.
        whole: rows and loss units of the whole micro-batches, of all processes; None where `batches` are whole.
    """

    task: int
    batches: tuple[Batch, ...]
    weight: float = 1.0
    whole: tuple[int, float] | None = None

    @property
    def count(self) -> int:
        """Count the rows of all micro-batches, of all processes."""
        return sum(batch.count for batch in self.batches) if self.whole is None else self.whole[0]

    @property
    def units(self) -> float:
        """Count the loss units of all micro-batches, by which their summed losses are divided; 1 if no label is known.

        Dividing each micro-batch, or the part of each process, by its own units would give short ones too much weight.
        """
        return self._units or 1.0

    @property
    def has_labels(self) -> bool:
        """Return whether the label of a row is known."""
        return self._units > 0

    @property
    def _units(self) -> float:
        return sum(batch.units for batch in self.batches) if self.whole is None else self.whole[1]


Pass = list[tuple[int, Batch]]
"""Micro-batches of the same rows, one of each task, with the number of the task in the step. One pass of the encoder serves all."""


def passes_of(step: Sequence[TaskLoss], pass_of: Callable[[int], Hashable | None]) -> list[Pass]:
    """Return the passes of a step: those of the first task, then those of the second that it does not share, and so on.

    Args:
        pass_of: a key that is equal for tasks (indices) with the same states for the same rows; None: the task shares none.
    """
    passes: list[Pass] = []
    open_passes: dict[tuple[Hashable, int, bytes], Pass] = {}
    for number, task_loss in enumerate(step):
        states = pass_of(task_loss.task)
        for batch in task_loss.batches:
            if batch.group is None or states is None:
                passes.append([(number, batch)])
                continue
            # In order: the same rows in another order are another tensor of tokens.
            key = (states, batch.group, batch.rows.tobytes())
            existing = open_passes.get(key)
            # A task that meets the same rows twice in a step needs two passes.
            if existing is not None and all(member != number for member, _ in existing):
                existing.append((number, batch))
            else:
                open_passes[key] = [(number, batch)]
                passes.append(open_passes[key])
    return passes
