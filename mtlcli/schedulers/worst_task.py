"""Worst task: Mao et al., ACL 2020 (as described by Chen, Zhang and Yang, 2024, section 3.4)."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.plugin import EvaluationResult
from mtlcli.schedulers.base import Position, Scheduler, Visit, power_of_sizes, steps_for_largest


class WorstTask(Scheduler):
    """Train the task with the worst result in the last evaluation on dev; before the first one, the tasks take turns.

    The choice can change only at evaluations, so set training.eval_every to a few hundred steps. Losses of different tasks
    are not comparable, so the worst is the largest dev loss relative to the task's first one (as with the weights 1 / l_t
    of the Tchebycheff loss), or to that of a constant guess, log C or 1. Equally bad tasks take turns. A task without dev
    rows is visited in every T-th step of T tasks.
    """

    tasks_per_step = "one"

    def __init__(
        self,
        run: RunFacts,
        *,
        relative: Annotated[
            Literal["first", "chance", "none"], Field(description="divisor of a dev loss before the comparison")
        ] = "first",
    ) -> None:
        super().__init__(run)
        self.relative = relative
        self.register_buffer("first", torch.full((len(run.tasks),), math.inf, dtype=torch.float64))  # inf: none yet
        self.register_buffer("last", torch.full((len(run.tasks),), math.inf, dtype=torch.float64))
        self.first: Tensor
        self.last: Tensor

    def visits(self, position: Position) -> list[Visit]:
        """Return the worst of the measured tasks, or the task whose turn it is if that was never measured."""
        turn = position.step % len(self.run.tasks)
        badness = self._badness()
        # A task without a dev loss keeps its turn, because it can never be the worst.
        if badness[turn] >= 0:
            worst = [task for task, bad in enumerate(badness) if bad == max(badness)]
            # By step and without random numbers, so that visits are a function of the position and the buffers.
            turn = worst[position.step % len(worst)]
        return [Visit(turn, self.run.micro_batches)]

    def _badness(self) -> list[float]:
        """Return the relative dev loss by task; -1 if there is none."""
        units = {
            "first": self.first.tolist(),
            "chance": [task.dev_guess for task in self.run.tasks],
            "none": [1.0] * len(self.run.tasks),
        }[self.relative]
        last = self.last.tolist()
        return [loss / unit if math.isfinite(loss) else -1.0 for loss, unit in zip(last, units, strict=True)]

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Record the losses on dev."""
        for task, loss in result.losses.items():
            if math.isfinite(loss):
                # A negative loss would be taken for -1, which marks a task without a loss.
                self.last[task] = max(0.0, loss)
                if not torch.isfinite(self.first[task]):
                    # Later losses are divided by it.
                    self.first[task] = max(loss, 1e-8)

    def steps_per_epoch(self) -> int:
        """Return the steps in which the largest task is seen once if all are equally frequent."""
        return steps_for_largest(self.run, power_of_sizes(self.run, 0.0))
