"""All together: Zalmout and Habash, ACL 2019 (as described by Chen, Zhang and Yang, 2024, section 3.4)."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit


class AllTogether(Scheduler):
    """Put every task into every step, in proportion to its size, so that all finish their pass together.

    Task t contributes ``floor((s + 1) b_t / S) - floor(s b_t / S)`` of its b_t batches to step s, where S, the steps of an
    epoch, gives the smallest task training.micro_batches per step. No row is repeated before all have been seen, but steps
    are large and few. Micro-batches run one after another, so memory does not grow.

    The loss of a task is the mean over its rows, so the balancer alone weights the tasks, whatever their sizes. Equal
    numbers of rows of all tasks, as in the tensors of Zhang et al. (IJCAI 2017), are the scheduler round-robin.
    """

    tasks_per_step = "all"
    cost = "micro-batches in proportion to the sizes"

    def __init__(
        self,
        run: RunFacts,
        *,
        max_micro_batches: Annotated[
            int | None,
            Field(
                ge=1,
                description="largest number of micro-batches of one task in a step; small tasks then repeat sooner",
            ),
        ] = None,
    ) -> None:
        super().__init__(run)
        batches = [task.batches for task in run.tasks]
        # Rounded up, so that no step takes more than micro_batches of the smallest task.
        self.steps = -(-min(batches) // run.micro_batches)
        if max_micro_batches is not None:
            # More steps make every part smaller, until that of the largest task is within the limit.
            self.steps = max(self.steps, -(-max(batches) // max_micro_batches))

    def visits(self, position: Position) -> list[Visit]:
        """Return all tasks, with at least one micro-batch each."""
        first, last = position.step, position.step + 1
        # Differences of whole-number cumulative counts add up to exactly b_t per pass, without rounding and without
        # state.
        parts = (last * task.batches // self.steps - first * task.batches // self.steps for task in self.run.tasks)
        # With max_micro_batches, a small task has no new batch in some steps but is still visited.
        return [Visit(task, max(1, part)) for task, part in enumerate(parts)]

    def steps_per_epoch(self) -> int:
        """Return the number of steps in which every task is seen once."""
        return self.steps
