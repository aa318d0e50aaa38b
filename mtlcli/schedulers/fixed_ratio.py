"""Fixed ratio: survey 3.4, the mixing ratio r_t; Luong et al., ICLR 2016, arXiv:1511.06114, mix tasks so."""

from heapq import heapify, heapreplace
from typing import Annotated, Literal

import torch
from pydantic import Field

from mtlcli.errors import MtlError
from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, draws, task_named


class FixedRatio(Scheduler):
    """Mixes tasks in a ratio given by hand, whatever their sizes: drawn at random, or evenly spread in a fixed order.

    `interleaved` is a pre-defined schedule in the survey's words: visit j of task t, counted from 0, is due at (j + 1/2) / r_t,
    and the one due first comes next. With whole numbers every round of sum r_t visits holds exactly r_t of each task.
    Raises MtlError for the ratio of a task that the run does not have, and where all are 0.
    """

    tasks_per_step = "draws"

    def __init__(
        self,
        run: RunFacts,
        *,
        ratio: Annotated[
            dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
            Field(description="r_t by task name; 1 for a task left out, 0 for one that is never visited"),
        ],
        order: Annotated[
            Literal["random", "interleaved"], Field(description="draws with these probabilities, or a fixed order")
        ] = "random",
    ) -> None:
        super().__init__(run)
        for name in ratio:
            task_named(run, name, "ratio")
        ratios = [float(ratio.get(task.name, 1.0)) for task in run.tasks]
        if not any(ratios):
            raise MtlError("scheduler.ratio: every task has 0; expected more for one at least")
        self.interleaved = order == "interleaved"
        self.probabilities = torch.tensor(ratios, dtype=torch.float64) / sum(ratios)
        self.due = [(0.5 / each, task, 0, each) for task, each in enumerate(ratios) if each]
        heapify(self.due)
        self.turns: list[int] = []  # the fixed order as far as it was asked for

    def visits(self, position: Position) -> list[Visit]:
        """The tasks of this step, and how often each."""
        size = self.run.micro_batches
        if not self.interleaved:
            return draw(self.run, self.probabilities, position)
        turns = self._turns((position.step + 1) * size)[position.step * size :]
        return draws(turns)

    def _turns(self, count: int) -> list[int]:
        while len(self.turns) < count:
            _, task, visit, each = self.due[0]
            heapreplace(self.due, ((visit + 1.5) / each, task, visit + 1, each))
            self.turns.append(task)
        return self.turns[:count]

    def steps_per_epoch(self) -> int:
        """Steps in which the largest of the tasks that are visited is expected to be seen once."""
        shares = self.probabilities.tolist()
        batches, share = max((task.batches, share) for task, share in zip(self.run.tasks, shares, strict=True) if share)
        return max(1, round(batches / (share * self.run.micro_batches)))
