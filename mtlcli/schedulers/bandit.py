"""Bandit: Guo, Pasunuru and Bansal, COLING 2018, C18-1039."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.facts import RunFacts
from mtlcli.plugin import ProbeResult
from mtlcli.schedulers.base import Position, Probe, Scheduler, Visit, power_of_sizes, steps_for_largest, task_named


class Bandit(Scheduler):
    """Learn which task helps a primary task most, by a Boltzmann bandit whose reward is the primary's loss on dev.

    A task is trained for `hold` steps. Then ``R = -(mean loss of the primary over some dev batches) / 2``, the value of
    that task alone moves, ``Q_t <- Q_t + rate (R - Q_t)``, and the next task is drawn with p_t proportional to exp(Q_t /
    temperature). The halved reward and Q_0 = -1/2 are those of the authors' code. Q_0 is optimistic only if the primary's
    loss is above 1.

    Differences from the authors' code: the first arm is the primary task; there it is task 0.

    Differences from the survey (Chen, Zhang and Yang, 2024, section 3.4): its formula omits that only the pulled arm moves.

    Raises MtlError if the primary task has no dev rows.
    """

    tasks_per_step = "one"
    cost = "two dev batches every ten steps"

    def __init__(
        self,
        run: RunFacts,
        *,
        primary: Annotated[
            str | None, Field(description="task whose dev loss is the reward; null: the first one")
        ] = None,
        rate: Annotated[float, Field(gt=0, le=1, description="learning rate of the values")] = 0.3,
        temperature: Annotated[
            float, Field(gt=0, description="temperature of the draw; a higher value makes it more uniform")
        ] = 1.0,
        hold: Annotated[int, Field(ge=1, description="steps per draw")] = 10,
        batches: Annotated[int, Field(ge=1, description="dev batches per reward")] = 2,
        initial_value: Annotated[float, Field(allow_inf_nan=False, description="initial Q of every task")] = -0.5,
    ) -> None:
        super().__init__(run)
        self.primary = 0 if primary is None else task_named(run, primary, "primary")
        if run.tasks[self.primary].dev_rows == 0:
            raise MtlError(
                f"scheduler.primary: {run.tasks[self.primary].name} has no dev rows, which the bandit's reward requires; add dev "
                "rows, or choose a task that has them"
            )
        self.rate, self.temperature, self.hold, self.batches = rate, temperature, hold, batches
        # Buffers, because a resumed run does not repeat the probes that determined them.
        self.register_buffer("values", torch.full((len(run.tasks),), initial_value, dtype=torch.float64))
        self.register_buffer("arm", torch.tensor(self.primary))
        self.register_buffer("pulls", torch.tensor(0))
        self.values: Tensor
        self.arm: Tensor
        self.pulls: Tensor

    def visits(self, position: Position) -> list[Visit]:
        """Return the current task."""
        return [Visit(int(self.arm), self.run.micro_batches)]

    def probe(self, position: Position) -> Probe | None:
        """Return a probe of the primary task after every `hold` steps."""
        # With a single task there is no other arm to draw.
        due = (position.step + 1) % self.hold == 0 and len(self.run.tasks) > 1
        return Probe((self.primary,), self.batches) if due else None

    def on_probe(self, result: ProbeResult) -> None:
        """Reward the current task and draw the next one; a loss that is not finite changes no value."""
        loss = result.losses[self.primary]
        if math.isfinite(loss):
            self.values[self.arm] += self.rate * (-loss / 2 - self.values[self.arm])
        # Draws are seeded by the number of pulls, so that a resumed run draws the same arms.
        self.pulls += 1
        policy = torch.softmax(self.values / self.temperature, dim=0)
        self.arm.copy_(torch.multinomial(policy, 1, generator=self.run.generator(f"pull {int(self.pulls)}"))[0])

    def steps_per_epoch(self) -> int:
        """Return the steps in which the largest task is seen once if all are equally frequent."""
        return steps_for_largest(self.run, power_of_sizes(self.run, 0.0))
