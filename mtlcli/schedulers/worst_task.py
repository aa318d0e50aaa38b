"""Worst task: Mao et al., ACL 2020, as survey 3.4 has it: learn from the task with the worst validation performance."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.plugin import EvaluationResult
from mtlcli.schedulers.base import Position, Scheduler, Visit, chance_loss, power_of_sizes, steps_for_largest


class WorstTask(Scheduler):
    """Trains the task that did worst in the last evaluation on dev; before the first one, each in its turn.

    Between two evaluations nothing changes, so training.eval_every decides how often the task may: set it to some hundred
    steps. Losses of different tasks cannot be compared as they are; the worst is the one with the largest dev loss relative to
    its own first one (as the weights 1 / l_t of the Tchebycheff loss do), or to that of chance, log C or 1. Equally bad tasks
    take turns. One without dev rows keeps its turn, every T-th step of T tasks.
    """

    tasks_per_step = "one"

    def __init__(
        self,
        run: RunFacts,
        *,
        relative: Annotated[
            Literal["first", "chance", "none"], Field(description="what a dev loss is divided by before comparing")
        ] = "first",
    ) -> None:
        super().__init__(run)
        self.relative = relative
        self.register_buffer("first", torch.full((len(run.tasks),), math.inf, dtype=torch.float64))  # inf: none yet
        self.register_buffer("last", torch.full((len(run.tasks),), math.inf, dtype=torch.float64))
        self.first: Tensor
        self.last: Tensor

    def visits(self, position: Position) -> list[Visit]:
        """The worst of the measured tasks, or the one whose turn it is where that was never measured."""
        turn = position.step % len(self.run.tasks)
        badness = self._badness()
        if badness[turn] >= 0:
            worst = [task for task, bad in enumerate(badness) if bad == max(badness)]
            turn = worst[position.step % len(worst)]
        return [Visit(turn, self.run.micro_batches)]

    def _badness(self) -> list[float]:
        """Dev loss in its unit by task; -1 where there is none."""
        units = {
            "first": self.first.tolist(),
            "chance": [chance_loss(self.run, task) for task in range(len(self.run.tasks))],
            "none": [1.0] * len(self.run.tasks),
        }[self.relative]
        last = self.last.tolist()
        return [loss / unit if math.isfinite(loss) else -1.0 for loss, unit in zip(last, units, strict=True)]

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Takes the losses on dev."""
        for task, loss in result.losses.items():
            if math.isfinite(loss):
                self.last[task] = max(0.0, loss)
                if not torch.isfinite(self.first[task]):
                    self.first[task] = max(loss, 1e-8)

    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is seen once, were all equally frequent."""
        return steps_for_largest(self.run, power_of_sizes(self.run, 0.0))
