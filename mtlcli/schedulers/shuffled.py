"""Shuffled: survey 3.4; Liu et al. (MT-DNN), ACL 2019, arXiv:1901.11504, Algorithm 1."""

import torch

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draws


class Shuffled(Scheduler):
    """Shuffles the batches of all tasks into one order: each row is seen once before any is seen again.

    Proportional sampling without its chance: in one pass every task has exactly as many batches as it holds, in an order that
    depends on the seed and the pass. A step takes the next training.micro_batches of them, of whatever tasks they are.
    """

    tasks_per_step = "draws"

    def __init__(self, run: RunFacts) -> None:
        super().__init__(run)
        batches = torch.tensor([task.batches for task in run.tasks])
        self.cards = torch.repeat_interleave(torch.arange(len(batches)), batches)
        self.order = (-1, self.cards)  # of one pass: a function of its number, kept because a step asks again and again

    def visits(self, position: Position) -> list[Visit]:
        """The tasks of the next batches in the order."""
        size = self.run.micro_batches
        return draws([self._task(number) for number in range(position.step * size, (position.step + 1) * size)])

    def _task(self, number: int) -> int:
        again, index = divmod(number, len(self.cards))
        if self.order[0] != again:
            generator = self.run.generator(f"shuffle {again}")
            self.order = (again, self.cards[torch.randperm(len(self.cards), generator=generator)])
        return int(self.order[1][index])

    def steps_per_epoch(self) -> int:
        """One pass over every task."""
        return -(-len(self.cards) // self.run.micro_batches)
