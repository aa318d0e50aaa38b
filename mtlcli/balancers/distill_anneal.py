"""Distillation with teacher annealing (BAM): Clark et al., ACL 2019, arXiv:1907.04829, as in the authors' code."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer, BatchLosses
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts
from mtlcli.plugin import SetupContext, StepResult


class DistillAnneal(Balancer):
    """Learns from finished runs at first and from the labels later; each task may have a run of its own as teacher.

    L = lambda L_gold + (1 - lambda) L_teacher, where lambda, the weight of the label, is the share of the steps done: 0 at the
    first step, nearly 1 at the last. The survey's 3.1 gives lambda to the distillation and lets it rise, which is the other
    way round. With `mode: fixed`, lambda is `weight` throughout. A task without a teacher learns from its labels alone.

    L_teacher is sum_c p_c L(c) over the teacher's probabilities p, or the loss for its score. The paper mixes label and
    prediction into one target instead: for cross-entropy and squared error the gradient is the same, and mixed losses need
    nothing of a head but its loss, of which any other head takes the mean under the teacher. Temperature 1, as in the code. The
    teachers are asked once, with dropout off; they know the rows if they were trained on them, as in the paper. Every task
    counts one; native scale: sum. The paper's sampling by size ** 0.75 is the scheduler `temperature` at 4/3.
    """

    cost = "each teacher once over its training rows, before step 1"

    def __init__(
        self,
        run: RunFacts,
        *,
        teachers: Annotated[
            dict[str, str], Field(min_length=1, description="folder of a finished run or an ensemble, by task name")
        ],
        mode: Annotated[
            Literal["anneal", "fixed"], Field(description="whether the label's weight rises over the run or stays")
        ] = "anneal",
        weight: Annotated[float, Field(ge=0, le=1, description="weight of the label where mode is fixed")] = 0.5,
    ) -> None:
        super().__init__(run)
        names = [task.name for task in run.tasks]
        errors = [
            f"balancer.teachers.{name}: no such task{suggest(name, names)}" for name in teachers if name not in names
        ]
        if errors:
            raise MtlError(*errors)
        self.teachers = {names.index(name): folder for name, folder in teachers.items()}
        self.fixed = weight if mode == "fixed" else None
        self.steps = 1
        self.taught: dict[int, np.ndarray] = {}  # not in the checkpoint: a function of the folders and the rows
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.done: Tensor

    def setup(self, start: SetupContext) -> None:
        """Asks the teachers. Raises MtlError for each that cannot teach its task."""
        self.steps = start.steps
        errors: list[str] = []
        for task, folder in self.teachers.items():
            try:
                found = start.teacher_predictions(folder, task)
                self.taught[task] = found.values if found.probabilities is None else found.probabilities
            except MtlError as error:
                errors += [f"balancer.teachers.{self.run.tasks[task].name}: {line}" for line in error.lines]
        if errors:
            raise MtlError(*errors)

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Ones (k,)."""
        return torch.ones(len(tasks), device=tasks.device)

    def gold(self) -> float:
        """lambda, the weight of the label at the next step."""
        return min(1.0, int(self.done) / self.steps) if self.fixed is None else self.fixed

    def batch_losses(self, batch: BatchLosses) -> Tensor:
        """The mixture (n,); the losses themselves of a task without a teacher."""
        gold = self.gold()
        if batch.task not in self.taught or gold == 1:
            return batch.losses
        taught = torch.from_numpy(self.taught[batch.task][batch.rows]).to(batch.losses.device)
        if taught.dim() == 1:
            teacher = batch.loss_of(taught)
        else:
            classes = [torch.full((len(taught),), index, device=taught.device) for index in range(taught.shape[1])]
            each = torch.stack([batch.loss_of(targets) for targets in classes], dim=1)
            teacher = (taught.to(each) * each).sum(1)
        return gold * batch.losses + (1 - gold) * teacher

    def on_step(self, result: StepResult) -> None:
        """Counts the steps that are done."""
        self.done.fill_(result.step)
