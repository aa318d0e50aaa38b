"""Annealed sampling: Stickland and Murray (PALs), ICML 2019, arXiv:1902.02671, section 4.1."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest


class Annealed(Scheduler):
    """Draw tasks with p_t proportional to n_t^alpha, alpha = 1 - decay * progress: by size at first, nearly equal at the
    end.

    Probabilities are computed from the sizes in every step. Mgbahurike, Mlauzi and Ocran (Jack of All Trades, Master of
    Some, 2024) also train with it.

    Differences from the paper:
      * it has ``alpha = 1 - 0.8 (e - 1) / (E - 1)`` for epoch e of E, which divides by zero for one epoch. Here progress
        runs from 0 at the first step to 1 at the last, so alpha falls in every step;
      * its epoch is a fixed number of steps, for which set training.steps_per_epoch; the default is that of proportional
        sampling.
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
        """Return the tasks drawn for this step."""
        # From the sizes in every step: a power of the probabilities of the previous step would compound.
        return draw(self.run, power_of_sizes(self.run, 1.0 - self.decay * position.progress), position)

    def steps_per_epoch(self) -> int:
        """Return the steps of an epoch of proportional sampling."""
        # The largest task becomes rarer during the run, so a later epoch is less than one pass over it.
        return steps_for_largest(self.run, power_of_sizes(self.run, 1.0))
