"""Temperature sampling: Chen, Zhang and Yang (Multi-Task Learning in Natural Language Processing: An Overview), 2024, section 3.3."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest


class Temperature(Scheduler):
    """Draw tasks with p_t proportional to n_t^(1/T): T = 1 is proportional, a large T nearly uniform.

    Multilingual BERT samples so. The survey and other tools also write the exponent as alpha; this option is its reciprocal.
    """

    tasks_per_step = "draws"

    def __init__(
        self,
        run: RunFacts,
        *,
        temperature: Annotated[float, Field(gt=0, description="T; 1 is proportional to the rows, inf uniform")] = 2.0,
    ) -> None:
        super().__init__(run)
        # 1 / inf is 0, which makes the draw uniform.
        self.probabilities = power_of_sizes(run, 1.0 / temperature)

    def visits(self, position: Position) -> list[Visit]:
        """Return the tasks drawn for this step."""
        return draw(self.run, self.probabilities, position)

    def steps_per_epoch(self) -> int:
        """Return the steps in which the largest task is expected to be seen once."""
        return steps_for_largest(self.run, self.probabilities)
