"""State machine: Gupta, Schütze and Andrassy, COLING 2016, C16-1239 (as described by Chen, Zhang and Yang, 2024, section 3.4)."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.plugin import EvaluationResult
from mtlcli.schedulers.base import Position, Scheduler, Stage, Visit


class StateMachine(Scheduler):
    """Train one task until its loss on dev rises; then switch to the next and lower the learning rate.

    Decisions are made at evaluations, so set training.eval_every to a few hundred steps. A loss rises if it exceeds that of
    the previous evaluation by more than `tolerance`; `patience` rises in a row end the task's turn and multiply the
    learning rate by `decay`, in addition to optimizer.schedule. After the last task the first follows. A task without dev
    rows has its turn until the next evaluation and does not change the rate.

    The survey does not state the factor; 0.5 is a choice made here. With a single task, decay 0.5 and patience 3, the rate
    falls as in Mgbahurike, Mlauzi and Ocran (Jack of All Trades, Master of Some, 2024).
    """

    tasks_per_step = "one"

    def __init__(
        self,
        run: RunFacts,
        *,
        decay: Annotated[float, Field(gt=0, le=1, description="factor of the learning rate at a switch")] = 0.5,
        minimum: Annotated[float, Field(gt=0, le=1, description="lower bound of the product of the factors")] = 0.01,
        patience: Annotated[int, Field(ge=1, description="rises in a row before a switch")] = 1,
        tolerance: Annotated[float, Field(ge=0, description="largest rise that does not count")] = 0.0,
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
        """Return the current task."""
        return [Visit(int(self.task), self.run.micro_batches)]

    def stage(self, position: Position) -> Stage:
        """Return the run as a single stage, at the current rate."""
        return Stage(0, position.total_steps, lr=float(self.lr))

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Compare the task's loss with the previous one, and switch if it has risen often enough."""
        # NaN compares false with everything, so it is no rise.
        loss = result.losses.get(int(self.task), math.nan)
        rises = int(self.rises) + 1 if loss > float(self.last[self.task]) + self.tolerance else 0
        is_over = rises >= self.patience
        if is_over:
            self.lr.fill_(max(self.minimum, float(self.lr) * self.decay))
        # NaN: the task has no dev rows, so no rise would ever end its turn.
        if is_over or math.isnan(loss):
            self.task.fill_((int(self.task) + 1) % len(self.run.tasks))
        self.rises.fill_(0 if is_over else rises)
        # For all tasks, so that the next one is compared with its loss at the switch, not at the end of its previous
        # turn.
        for task, dev_loss in result.losses.items():
            if math.isfinite(dev_loss):
                self.last[task] = dev_loss

    def steps_per_epoch(self) -> int:
        """Return the steps in which the largest task is seen once during its turn."""
        return -(-max(task.batches for task in self.run.tasks) // self.run.micro_batches)
