"""All together: survey 3.4, "train all tasks together", as Zalmout and Habash, ACL 2019, join data sets in one batch."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit


class AllTogether(Scheduler):
    """Puts every task into every step, each with a share of its own size, so that all end their pass together.

    Of its b_t batches, task t has floor((s + 1) b_t / S) - floor(s b_t / S) in step s, where S, the steps of an epoch, leaves
    the smallest task training.micro_batches a step. No row is repeated before all have been seen, but steps are large and few.
    Micro-batches follow one another, so memory does not grow. The loss of a task is the mean over its own rows: tasks count as
    the balancer says, whatever their sizes. The same number of rows of every task in a step, as in the tensors of Zhang et
    al. (IJCAI 2017), is round-robin.
    """

    tasks_per_step = "all"
    cost = "micro-batches in proportion to the sizes"

    def __init__(
        self,
        run: RunFacts,
        *,
        max_micro_batches: Annotated[
            int | None,
            Field(ge=1, description="most micro-batches of one task in a step; small tasks then start anew sooner"),
        ] = None,
    ) -> None:
        super().__init__(run)
        batches = [task.batches for task in run.tasks]
        self.steps = -(-min(batches) // run.micro_batches)
        if max_micro_batches is not None:
            self.steps = max(self.steps, -(-max(batches) // max_micro_batches))

    def visits(self, position: Position) -> list[Visit]:
        """All tasks, one micro-batch of each at least."""
        first, last = position.step, position.step + 1
        parts = (last * task.batches // self.steps - first * task.batches // self.steps for task in self.run.tasks)
        return [Visit(task, max(1, part)) for task, part in enumerate(parts)]

    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is seen once, and every other one too."""
        return self.steps
