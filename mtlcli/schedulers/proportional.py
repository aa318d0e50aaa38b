"""Proportional sampling: survey 3.3, p_t = |D_t| / sum |D|."""

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest


class Proportional(Scheduler):
    """Each micro-batch is of a task drawn with a probability proportional to its training rows.

    As in shuffling all rows together, but one task to a batch. Draws per step: training.micro_batches.
    """

    tasks_per_step = "draws"

    def __init__(self, run: RunFacts) -> None:
        super().__init__(run)
        self.probabilities = power_of_sizes(run, 1.0)

    def visits(self, position: Position) -> list[Visit]:
        """The tasks drawn for this step."""
        return draw(self.run, self.probabilities, position)

    def steps_per_epoch(self) -> int:
        """About one pass over every task."""
        return steps_for_largest(self.run, self.probabilities)
