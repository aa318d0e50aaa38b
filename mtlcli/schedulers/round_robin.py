"""Round robin: survey 3.4; RD 4.5 compares what to do when a small task ends."""

from typing import Annotated, Literal

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, TasksPerStep, Visit


class RoundRobin(Scheduler):
    """Visits every task in every step. An epoch is one pass over the largest task, unless `exhausted` is `stop`.

    `cycle` starts a small task anew, freshly shuffled (RD's balanced round robin, the change that helped most there);
    `drop` leaves it out for the rest of the epoch (RD's unbalanced one); `stop` ends the epoch with the smallest task, and
    the next epoch goes on in the larger ones where this one stopped.
    """

    tasks_per_step: TasksPerStep = "all"

    def __init__(
        self,
        run: RunFacts,
        *,
        exhausted: Annotated[
            Literal["cycle", "stop", "drop"], Field(description="what happens when a task's rows are used up")
        ] = "cycle",
    ) -> None:
        super().__init__(run)
        self.exhausted = exhausted
        if exhausted == "drop":
            self.tasks_per_step = "several"

    def visits(self, position: Position) -> list[Visit]:
        """All tasks; with `drop` those that have batches left in this epoch."""
        size = self.run.micro_batches
        if self.exhausted != "drop":
            return [Visit(task, size) for task in range(len(self.run.tasks))]
        done = position.step % position.steps_per_epoch * size
        left = [max(0, task.batches - done) for task in self.run.tasks]
        return [Visit(task, min(size, batches)) for task, batches in enumerate(left) if batches] or [Visit(0, size)]

    def steps_per_epoch(self) -> int:
        """Steps until the largest (or, with `stop`, the smallest) task has been seen once."""
        choose = min if self.exhausted == "stop" else max
        return -(-choose(task.batches for task in self.run.tasks) // self.run.micro_batches)
