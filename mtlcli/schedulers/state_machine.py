"""State machine: Gupta, Schütze and Andrassy, COLING 2016 (C16-1239), as survey 3.4 describes it."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.plugin import EvaluationResult
from mtlcli.schedulers.base import Position, Scheduler, Stage, Visit


class StateMachine(Scheduler):
    """Stays with one task until its loss on dev rises; then goes to the next and lowers the learning rate.

    It decides at evaluations, so set training.eval_every to some hundred steps. A loss rises where it is above that of the
    evaluation before by more than `tolerance`; `patience` rises in a row end the task's turn and multiply the learning rate by
    `decay`, on top of optimizer.schedule. The survey does not say by how much, so decay is our choice. After the last task comes
    the first again. One task alone only has its rate lowered: with decay 0.5 and patience 3 as MMO does. A task without dev
    rows has its turn until the next evaluation, without a change of the rate.
    """

    tasks_per_step = "one"

    def __init__(
        self,
        run: RunFacts,
        *,
        decay: Annotated[float, Field(gt=0, le=1, description="factor of the learning rate at a switch")] = 0.5,
        minimum: Annotated[float, Field(gt=0, le=1, description="the least that the factors may come to")] = 0.01,
        patience: Annotated[int, Field(ge=1, description="evaluations with a rising loss before a switch")] = 1,
        tolerance: Annotated[float, Field(ge=0, description="rise of the loss that does not count yet")] = 0.0,
    ) -> None:
        super().__init__(run)
        self.decay, self.minimum, self.patience, self.tolerance = decay, minimum, patience, tolerance
        self.register_buffer("task", torch.tensor(0))
        self.register_buffer("rises", torch.tensor(0))
        self.register_buffer("lr", torch.tensor(1.0, dtype=torch.float64))
        self.register_buffer("last", torch.full((len(run.tasks),), math.inf, dtype=torch.float64))  # inf: none yet
        self.task: Tensor
        self.rises: Tensor
        self.lr: Tensor
        self.last: Tensor

    def visits(self, position: Position) -> list[Visit]:
        """The task whose turn it is."""
        return [Visit(int(self.task), self.run.micro_batches)]

    def stage(self, position: Position) -> Stage:
        """The whole run, at the rate the machine has come to."""
        return Stage(0, position.total_steps, lr=float(self.lr))

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Compares the task's loss with the one before, and perhaps goes on."""
        loss = result.losses.get(int(self.task), math.nan)
        rises = int(self.rises) + 1 if loss > float(self.last[self.task]) + self.tolerance else 0
        enough = rises >= self.patience
        if enough:
            self.lr.fill_(max(self.minimum, float(self.lr) * self.decay))
        if enough or math.isnan(loss):
            self.task.fill_((int(self.task) + 1) % len(self.run.tasks))
        self.rises.fill_(0 if enough else rises)
        for task, found in result.losses.items():
            if math.isfinite(found):
                self.last[task] = found

    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is seen once when it has its turn."""
        return -(-max(task.batches for task in self.run.tasks) // self.run.micro_batches)
