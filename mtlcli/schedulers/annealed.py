"""Annealed sampling: Stickland and Murray (PALs), ICML 2019, arXiv:1902.02671, section 4.1; used by MMO."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest


class Annealed(Scheduler):
    """Draws tasks with p_t proportional to n_t^alpha, alpha = 1 - decay * progress: by size first, nearly equal at last.

    The paper has alpha = 1 - 0.8 (e - 1) / (E - 1) for epoch e of E, which divides by zero for one epoch. Here progress
    runs from 0 at the first step to 1 at the last, so alpha falls step by step and one epoch is enough. Probabilities are
    always taken from the sizes, never from those of the step before. The paper's epoch is a fixed number of steps: set
    training.steps_per_epoch; the default is that of proportional sampling.
    """

    tasks_per_step = "draws"

    def __init__(
        self,
        run: RunFacts,
        *,
        decay: Annotated[float, Field(ge=0, le=1, description="1 - alpha at the last step; 0.8 in the paper")] = 0.8,
    ) -> None:
        super().__init__(run)
        self.decay = decay

    def visits(self, position: Position) -> list[Visit]:
        """The tasks drawn for this step."""
        return draw(self.run, power_of_sizes(self.run, 1.0 - self.decay * position.progress), position)

    def steps_per_epoch(self) -> int:
        """As for proportional sampling."""
        return steps_for_largest(self.run, power_of_sizes(self.run, 1.0))
