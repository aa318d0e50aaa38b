"""Round robin: Ramos and Dalmia (Multi-Task Learning for Robust Contextualized Sentence Embedding Generation), 2023, section 4.5."""

from typing import Annotated, Literal

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, TasksPerStep, Visit


class RoundRobin(Scheduler):
    """Visit every task in every step; an epoch is one pass over the largest task, unless `exhausted` is `stop`.

    When a task runs out of rows, `cycle` repeats it in a new order (the balanced round robin of the report, the change that
    helped most there), `drop` omits it for the rest of the epoch (its unbalanced round robin), and `stop` ends the epoch
    with the smallest task; the next epoch continues in the larger ones.
    """

    tasks_per_step: TasksPerStep = "all"

    def __init__(
        self,
        run: RunFacts,
        *,
        exhausted: Annotated[
            Literal["cycle", "stop", "drop"], Field(description="what to do when a task runs out of rows")
        ] = "cycle",
    ) -> None:
        super().__init__(run)
        self.exhausted = exhausted
        if exhausted == "drop":
            # Late in an epoch only the larger tasks are left, so methods that need all tasks in every step are
            # rejected.
            self.tasks_per_step = "several"

    def visits(self, position: Position) -> list[Visit]:
        """Return all tasks; with `drop`, those with batches left in this epoch."""
        size = self.run.micro_batches
        if self.exhausted != "drop":
            return [Visit(task, size) for task in range(len(self.run.tasks))]
        # Derived from the position, so that a resumed run drops the same tasks.
        done = position.step % position.steps_per_epoch * size
        remaining = [max(0, task.batches - done) for task in self.run.tasks]
        # steps_per_epoch may be set beyond the largest task's pass; a step is never empty.
        return [Visit(task, min(size, count)) for task, count in enumerate(remaining) if count] or [Visit(0, size)]

    def steps_per_epoch(self) -> int:
        """Return the steps until the largest (with `stop`, the smallest) task has been seen once."""
        # With `drop` and `cycle`, an epoch is one pass over the largest task.
        choose = min if self.exhausted == "stop" else max
        return -(-choose(task.batches for task in self.run.tasks) // self.run.micro_batches)
