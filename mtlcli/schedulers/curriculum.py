"""Curriculum: Isonuma et al., EMNLP 2017; Nishino et al., EMNLP 2019; Hashimoto et al., EMNLP 2017."""

import math
from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.facts import RunFacts
from mtlcli.plugin import StepResult
from mtlcli.schedulers.base import Position, Scheduler, Visit, task_named


class Curriculum(Scheduler):
    """Introduce the tasks one after another, the easiest first, in a given or measured order.

    The run is divided into parts, equal unless `shares` is set. With `cumulative`, part i visits the first i tasks of the
    order; without, it visits task i alone, and one more part visits all tasks (Hashimoto's mixed batches; its share can be
    0). Every step of a part holds all its tasks.

    `measured` spends a first part on all tasks. The difficulty of a task is its mean training loss over the second half of
    that part, divided by that of a constant guess (log C for classes, 1 for scores). Until then the order is that of the
    run, which the plan also uses.

    Differences from the papers: they order tasks by hand; the measure was designed here.

    Raises MtlError for a task that the run does not have or that is listed twice, and for a wrong number of shares.
    """

    tasks_per_step = "several"

    def __init__(
        self,
        run: RunFacts,
        *,
        order: Annotated[
            list[str] | str,
            Field(description="task names, easiest first, omitted ones last; or: measured"),
        ] = "measured",
        cumulative: Annotated[bool, Field(description="true: a task stays when the next one is added")] = True,
        shares: Annotated[
            list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None,
            Field(description="relative lengths of the parts; null: equal"),
        ] = None,
        measure_share: Annotated[
            float, Field(gt=0, lt=1, description="fraction of the run used to measure the order")
        ] = 0.1,
    ) -> None:
        super().__init__(run)
        count = len(run.tasks)
        # Any other text is the name of a single task, so that it can be given without brackets.
        names = [order] if isinstance(order, str) else order
        listed = [] if order == "measured" else [task_named(run, name, "order") for name in names]
        for earlier, later in pairwise(sorted(listed)):
            if earlier == later:
                raise MtlError(f"scheduler.order: {run.tasks[later].name} is listed twice")
        self.fixed_order = None if order == "measured" else listed + [t for t in range(count) if t not in listed]
        self.cumulative = cumulative
        self.shares = [1.0] * (count if cumulative else count + 1) if shares is None else shares
        parts = count if cumulative else count + 1
        if len(self.shares) != parts or not any(self.shares):
            raise MtlError(f"scheduler.shares: found {self.shares}; expected {parts} numbers, not all 0")
        self.measure_share = measure_share
        self.total_steps = 0  # not known before the first step
        # Buffers, so that a resumed run keeps the measured order.
        self.register_buffer("sums", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(count, dtype=torch.int64))
        self.sums: Tensor
        self.counts: Tensor

    def visits(self, position: Position) -> list[Visit]:
        """Return the tasks of the part that contains the step."""
        # Not in a buffer: `visits` sets it again before `on_step` of a resumed run reads it.
        self.total_steps = position.total_steps
        tasks = range(len(self.run.tasks)) if position.step < self._measured_steps() else self._part(position.step)
        return [Visit(task, self.run.micro_batches) for task in sorted(tasks)]

    def _measured_steps(self) -> int:
        """Return the length of the part that measures."""
        return 0 if self.fixed_order is not None else max(1, round(self.measure_share * self.total_steps))

    def _part(self, step: int) -> list[int]:
        start = self._measured_steps()
        # Rounding the cumulative ends, not the lengths, makes the parts add up to the run. A part with a share of 0
        # ends where it starts, so no step falls into it.
        ends = [start + round((self.total_steps - start) * end / sum(self.shares)) for end in accumulate(self.shares)]
        part, order = bisect_right(ends, step), self.order()
        # Without `cumulative`, the part after those of the tasks holds all of them.
        return order[: part + 1] if self.cumulative or part >= len(order) else order[part : part + 1]

    def order(self) -> list[int]:
        """Return the tasks from easiest to hardest, as listed or as measured so far."""
        if self.fixed_order is not None:
            return self.fixed_order
        # A task without losses yet counts as hardest.
        means = [total / count if count else math.inf for total, count in zip(self.sums, self.counts, strict=True)]
        return sorted(range(len(means)), key=lambda task: float(means[task]) / self.run.tasks[task].guess)

    def on_step(self, result: StepResult) -> None:
        """Add the losses over the second half of the part that measures."""
        end = self._measured_steps()
        # Losses of the first half are mostly those of untrained heads.
        if end // 2 < result.step <= end:
            # Indexed addition counts a repeated index once, which is correct because a step holds each task at most
            # once.
            self.sums[result.tasks] += result.losses.detach().to(self.sums)
            self.counts[result.tasks] += 1

    def steps_per_epoch(self) -> int:
        """Return the steps in which the largest task is seen once in a part that contains it."""
        return -(-max(task.batches for task in self.run.tasks) // self.run.micro_batches)
