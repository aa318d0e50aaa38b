"""Proportional sampling: Chen, Zhang and Yang (Multi-Task Learning in Natural Language Processing: An Overview), 2024, section 3.3."""

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest


class Proportional(Scheduler):
    """Draw the task of each micro-batch with a probability proportional to its training rows, p_t = n_t / sum n.

    The expected gradient is that of shuffling all rows together, for any training.micro_batches, but each batch holds one
    task.
    """

    tasks_per_step = "draws"

    def __init__(self, run: RunFacts) -> None:
        super().__init__(run)
        self.probabilities = power_of_sizes(run, 1.0)

    def visits(self, position: Position) -> list[Visit]:
        """Return the tasks drawn for this step."""
        return draw(self.run, self.probabilities, position)

    def steps_per_epoch(self) -> int:
        """Return the steps of about one pass over every task."""
        return steps_for_largest(self.run, self.probabilities)
