"""Linear temperature: Wang, Zhai and Hassan Awadalla, EMNLP 2020, arXiv:2010.02523."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest


class LinearTemperature(Scheduler):
    """Draw tasks with p_t proportional to n_t^(1/T), where T rises linearly over the first epochs, so that small tasks become
    more frequent.

    ``T = min(T_m, T_0 + (e / N) (T_m - T_0))`` after e epochs, where N is the number of warm-up epochs. An epoch is that of
    the initial temperature. A run shorter than the warm-up ends at a lower temperature.

    Differences from the paper: e is fractional, so T rises in every step.

    Differences from the survey (Chen, Zhang and Yang, 2024, section 3.3): it prints M for N, its symbol for the number of
    tasks.
    """

    tasks_per_step = "draws"

    def __init__(
        self,
        run: RunFacts,
        *,
        initial: Annotated[
            float, Field(gt=0, allow_inf_nan=False, description="T_0; 1 is proportional to the rows")
        ] = 1.0,
        final: Annotated[
            float, Field(gt=0, allow_inf_nan=False, description="T_m; a higher value makes the draw more uniform")
        ] = 5.0,
        warmup_epochs: Annotated[float, Field(gt=0, description="N, the epochs in which T rises")] = 5.0,
    ) -> None:
        super().__init__(run)
        self.initial, self.final, self.warmup_epochs = initial, final, warmup_epochs

    def temperature(self, position: Position) -> float:
        """Return T at a step."""
        # Epochs are fractional, so that T does not jump at their ends.
        epochs = position.step / position.steps_per_epoch
        # Limiting the fraction instead of T also covers a final temperature below the initial one.
        return self.initial + min(1.0, epochs / self.warmup_epochs) * (self.final - self.initial)

    def visits(self, position: Position) -> list[Visit]:
        """Return the tasks drawn for this step."""
        return draw(self.run, power_of_sizes(self.run, 1.0 / self.temperature(position)), position)

    def steps_per_epoch(self) -> int:
        """Return the steps in which the largest task is expected to be seen once at the initial temperature."""
        return steps_for_largest(self.run, power_of_sizes(self.run, 1.0 / self.initial))
