"""Linear temperature: Wang, Zhai and Hassan Awadalla, EMNLP 2020, arXiv:2010.02523; survey 3.3."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest


class LinearTemperature(Scheduler):
    """Draws tasks with p_t proportional to n_t^(1/T), T rising linearly over the first epochs: small tasks come more often.

    T = min(T_m, T_0 + (e / N) (T_m - T_0)) after e epochs, N the epochs of the warm-up: the survey prints M, which it also
    uses for the number of tasks. Here e has fractions, so T rises from step to step. A run shorter than the warm-up ends at a
    lower temperature. An epoch is that of the initial temperature.
    """

    tasks_per_step = "draws"

    def __init__(
        self,
        run: RunFacts,
        *,
        initial: Annotated[
            float, Field(gt=0, allow_inf_nan=False, description="T_0: 1 proportional to the rows")
        ] = 1.0,
        final: Annotated[float, Field(gt=0, allow_inf_nan=False, description="T_m: the larger, the more equal")] = 5.0,
        warmup_epochs: Annotated[float, Field(gt=0, description="N: epochs in which T rises")] = 5.0,
    ) -> None:
        super().__init__(run)
        self.initial, self.final, self.warmup_epochs = initial, final, warmup_epochs

    def temperature(self, position: Position) -> float:
        """T of a step."""
        epochs = position.step / position.steps_per_epoch
        return self.initial + min(1.0, epochs / self.warmup_epochs) * (self.final - self.initial)

    def visits(self, position: Position) -> list[Visit]:
        """The tasks drawn for this step."""
        return draw(self.run, power_of_sizes(self.run, 1.0 / self.temperature(position)), position)

    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is expected to be seen once at the initial temperature."""
        return steps_for_largest(self.run, power_of_sizes(self.run, 1.0 / self.initial))
