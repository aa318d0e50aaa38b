"""Blocks: an example to change. Say here where the method is from: authors, venue, year, arXiv id."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit


class Example(Scheduler):
    """Visit one task for a block of steps, then the next task, in the order of the run."""

    tasks_per_step = "one"

    def __init__(
        self,
        run: RunFacts,
        *,
        block: Annotated[int, Field(ge=1, description="steps before the next task's turn")] = 10,
    ) -> None:
        super().__init__(run)
        self.block = block

    def visits(self, position: Position) -> list[Visit]:
        """Return the task of the current block, with all micro-batches of the step."""
        return [Visit(position.step // self.block % len(self.run.tasks), self.run.micro_batches)]

    def steps_per_epoch(self) -> int:
        """Return the steps of one pass over the largest task; every task gets as many steps."""
        largest = max(task.batches for task in self.run.tasks)
        return len(self.run.tasks) * -(-largest // self.run.micro_batches)
