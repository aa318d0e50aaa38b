"""Fixed ratio: Luong et al., ICLR 2016, arXiv:1511.06114."""

from heapq import heapify, heapreplace
from typing import Annotated, Literal

import torch
from pydantic import Field

from mtlcli.errors import MtlError
from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, draws, task_named


class FixedRatio(Scheduler):
    """Mix tasks in a given ratio r_t, whatever their sizes: drawn at random, or spread evenly in a fixed order.

    `interleaved` is a predefined schedule: visit j of task t, counted from 0, is due at (j + 1/2) / r_t, and the earliest
    is next. With whole numbers, every round of sum r_t visits holds exactly r_t of each task.

    Raises MtlError for the ratio of a task that the run does not have, and if all ratios are 0.
    """

    tasks_per_step = "draws"

    def __init__(
        self,
        run: RunFacts,
        *,
        ratio: Annotated[
            dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
            Field(description="r_t by task name; 1 if omitted, 0 for a task to skip"),
        ],
        order: Annotated[
            Literal["random", "interleaved"], Field(description="random: draws; interleaved: a fixed order")
        ] = "random",
    ) -> None:
        super().__init__(run)
        for name in ratio:
            task_named(run, name, "ratio")
        ratios = [float(ratio.get(task.name, 1.0)) for task in run.tasks]
        if not any(ratios):
            raise MtlError("scheduler.ratio: found 0 for every task; expected a positive ratio for at least one")
        self.interleaved = order == "interleaved"
        self.probabilities = torch.tensor(ratios, dtype=torch.float64) / sum(ratios)
        # (time, task, visits, ratio): ties go to the order of the run.
        self.due = [(0.5 / share, task, 0, share) for task, share in enumerate(ratios) if share]
        heapify(self.due)
        self.turns: list[int] = []  # the fixed order, extended on demand

    def visits(self, position: Position) -> list[Visit]:
        """Return the tasks of this step."""
        size = self.run.micro_batches
        if not self.interleaved:
            return draw(self.run, self.probabilities, position)
        return draws(self._turns(position.step * size, (position.step + 1) * size))

    def _turns(self, start: int, count: int) -> list[int]:
        # The order depends on `count` alone, so a resumed run, which starts in the middle, continues it.
        while len(self.turns) < count:
            _, task, visit, share = self.due[0]
            # Computed from the count of visits: repeatedly adding 1 / r_t would accumulate rounding errors.
            heapreplace(self.due, ((visit + 1.5) / share, task, visit + 1, share))
            self.turns.append(task)
        return self.turns[start:count]

    def steps_per_epoch(self) -> int:
        """Return the steps in which the largest visited task is expected to be seen once."""
        shares = self.probabilities.tolist()
        batches, share = max((task.batches, share) for task, share in zip(self.run.tasks, shares, strict=True) if share)
        return max(1, round(batches / (share * self.run.micro_batches)))
