"""Distillation with teacher annealing (BAM): Clark et al., ACL 2019, arXiv:1907.04829."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer, BatchLosses
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts
from mtlcli.plugin import SetupContext, StepResult
from mtlcli.tasks.targets import Arrays


class DistillAnneal(Balancer):
    """Train on the predictions of finished runs at first and on the labels later.

    ``L = lambda L_gold + (1 - lambda) L_teacher``, where lambda, the weight of the label, is the fraction of steps done: 0
    at the first step, nearly 1 at the last. With `mode: fixed`, lambda is `weight` throughout. Each task can have a
    different teacher; a task without one trains on its labels alone.

    ``L_teacher = sum_c p_c L(c)`` over the teacher's probabilities p, or the loss for its score, at temperature 1. For tags it is
    summed over the words of a row, and `tag-crf` learns the teacher's probabilities as its marginals. Each
    teacher predicts once, without dropout. It may have been trained on the same rows, as in the paper.

    Differences from the paper:
      * it mixes label and prediction into one target. For cross-entropy and squared error the gradient is the same; mixing
        losses requires only a head's loss, of which any other head gets the mean under the teacher;
      * its sampling by size ** 0.75 is a scheduler here: `temperature` at 4/3.

    Differences from the survey (Chen, Zhang and Yang, 2024, section 3.1): it gives lambda to the distillation loss and lets
    it rise, the reverse of the paper and its code.

    Native scale: sum. Every task has weight 1.
    """

    cost = "each teacher once over its training rows, before step 1"
    soft_targets = "teachers"

    def __init__(
        self,
        run: RunFacts,
        *,
        teachers: Annotated[
            dict[str, str], Field(min_length=1, description="folder of a finished run or ensemble, by task name")
        ],
        mode: Annotated[
            Literal["anneal", "fixed"],
            Field(description="anneal: the weight of the label rises over the run; fixed: it stays"),
        ] = "anneal",
        weight: Annotated[float, Field(ge=0, le=1, description="weight of the label if mode is fixed")] = 0.5,
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
        # Replaced in setup, when the length of the run is known.
        self.steps = 1
        # Not in the checkpoint, because folders and rows determine them.
        self.teacher_targets: dict[int, Arrays] = {}
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.done: Tensor

    def setup(self, context: SetupContext) -> None:
        """Get the teachers' predictions. Raises MtlError for each teacher that cannot predict its task."""
        self.steps = context.steps
        errors: list[str] = []
        # All teachers are tried, so that every wrong folder is reported at once.
        for task, folder in self.teachers.items():
            try:
                self.teacher_targets[task] = context.teacher_predictions(folder, task)
            except MtlError as error:
                errors += [f"balancer.teachers.{self.run.tasks[task].name}: {line}" for line in error.lines]
        if errors:
            raise MtlError(*errors)

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return ones (k,)."""
        return torch.ones(len(tasks), device=tasks.device)

    def gold(self) -> float:
        """Return lambda, the weight of the label at the next step."""
        return min(1.0, int(self.done) / self.steps) if self.fixed is None else self.fixed

    def batch_losses(self, batch: BatchLosses) -> Tensor:
        """Return the mixed losses (n,), or the unchanged ones for a task without a teacher."""
        gold = self.gold()
        # The teacher's loss would be computed and multiplied by 0 otherwise.
        if batch.task not in self.teacher_targets or gold == 1:
            return batch.losses
        # The teacher predicted the rows in the order of the training split, which `rows` indexes.
        soft = self.teacher_targets[batch.task].take(batch.rows).tensors().to(batch.losses.device)
        teacher_losses = self.run.tasks[batch.task].target.soft_loss(batch.loss_of, soft)
        return gold * batch.losses + (1 - gold) * teacher_losses

    def on_step(self, result: StepResult) -> None:
        """Count the steps done."""
        # A buffer rather than a counter of calls: a skipped step counts too.
        self.done.fill_(result.step)
