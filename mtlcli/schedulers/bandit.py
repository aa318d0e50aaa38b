"""Bandit: Guo, Pasunuru and Bansal, COLING 2018 (C18-1039), the controller of survey 3.4."""

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
    """Learns which task helps a primary one most: a Boltzmann bandit rewarded by the primary's loss on dev.

    One task is trained for `hold` steps; then R = -(mean loss of the primary over some dev batches) / 2, that task's value
    alone moves, Q_t <- Q_t + rate (R - Q_t), and the next task is drawn with p_t proportional to exp(Q_t / temperature). The
    survey's formula leaves out that only the pulled arm moves; the halved reward, Q_0 = -1/2 and the first arm (task 0 there, the
    primary here) are those of the authors' code. Q_0 is hopeful only where the primary's loss is above 1.
    Raises MtlError where the primary task has no dev rows.
    """

    tasks_per_step = "one"
    cost = "two dev batches every ten steps"

    def __init__(
        self,
        run: RunFacts,
        *,
        primary: Annotated[str | None, Field(description="the task that gives the reward; null: the first one")] = None,
        rate: Annotated[float, Field(gt=0, le=1, description="how far a value moves to its last reward")] = 0.3,
        temperature: Annotated[float, Field(gt=0, description="of the draw: the larger, the more even")] = 1.0,
        hold: Annotated[int, Field(ge=1, description="steps for which a task is kept")] = 10,
        batches: Annotated[int, Field(ge=1, description="dev batches of one reward")] = 2,
        initial_value: Annotated[float, Field(allow_inf_nan=False, description="Q of every task before step 1")] = -0.5,
    ) -> None:
        super().__init__(run)
        self.primary = 0 if primary is None else task_named(run, primary, "primary")
        if run.tasks[self.primary].dev_rows == 0:
            raise MtlError(
                f"scheduler.primary: the bandit is rewarded by {run.tasks[self.primary].name} on dev, which has no dev rows; "
                "give it some, or name another task"
            )
        self.rate, self.temperature, self.hold, self.batches = rate, temperature, hold, batches
        self.register_buffer("values", torch.full((len(run.tasks),), initial_value, dtype=torch.float64))
        self.register_buffer("arm", torch.tensor(self.primary))
        self.register_buffer("pulls", torch.tensor(0))
        self.values: Tensor
        self.arm: Tensor
        self.pulls: Tensor

    def visits(self, position: Position) -> list[Visit]:
        """The task that is being held."""
        return [Visit(int(self.arm), self.run.micro_batches)]

    def probe(self, position: Position) -> Probe | None:
        """The primary task, after every `hold` steps."""
        due = (position.step + 1) % self.hold == 0 and len(self.run.tasks) > 1
        return Probe((self.primary,), self.batches) if due else None

    def on_probe(self, result: ProbeResult) -> None:
        """Rewards the held task and draws the next one; a loss that is not finite rewards nothing."""
        loss = result.losses[self.primary]
        if math.isfinite(loss):
            self.values[self.arm] += self.rate * (-loss / 2 - self.values[self.arm])
        self.pulls += 1
        policy = torch.softmax(self.values / self.temperature, dim=0)
        self.arm.copy_(torch.multinomial(policy, 1, generator=self.run.generator(f"pull {int(self.pulls)}"))[0])

    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is seen once, were all equally frequent."""
        return steps_for_largest(self.run, power_of_sizes(self.run, 0.0))
