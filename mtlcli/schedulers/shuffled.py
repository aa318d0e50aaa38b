"""Shuffled: Liu et al. (MT-DNN), ACL 2019, arXiv:1901.11504, Algorithm 1."""

import torch

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draws


class Shuffled(Scheduler):
    """Shuffle the batches of all tasks into one order, so that each row is seen once before any is repeated.

    This is proportional sampling without replacement: a pass holds each task's batches exactly once, in an order that
    depends on the seed and the pass. A step takes the next training.micro_batches of them, and its gradient is their mean,
    as in shuffling all rows together.
    """

    tasks_per_step = "draws"

    def __init__(self, run: RunFacts) -> None:
        super().__init__(run)
        batches = torch.tensor([task.batches for task in run.tasks])
        self.cards = torch.repeat_interleave(torch.arange(len(batches)), batches)
        # The pass and its order; cached, because every step reads it.
        self.order = (-1, self.cards)

    def visits(self, position: Position) -> list[Visit]:
        """Return the tasks of the next batches in the order."""
        size = self.run.micro_batches
        return draws([self._task(number) for number in range(position.step * size, (position.step + 1) * size)])

    def _task(self, number: int) -> int:
        # By batch rather than by step, because a step can end one pass and begin the next.
        passes, index = divmod(number, len(self.cards))
        if self.order[0] != passes:
            generator = self.run.generator(f"shuffle {passes}")
            self.order = (passes, self.cards[torch.randperm(len(self.cards), generator=generator)])
        return int(self.order[1][index])

    def steps_per_epoch(self) -> int:
        """Return the steps of one pass over every task."""
        return -(-len(self.cards) // self.run.micro_batches)
