"""DWA (dynamic weight average): Liu, Johns, Davison, CVPR 2019, arXiv:1803.10704."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import EpochResult, StepResult

EPSILON = 1e-8
"""Smallest mean loss; 0 marks a mean that is not known yet."""


class DWA(Balancer):
    """Weight each task by how slowly its loss fell from one epoch to the next.

    ``w = T softmax(r / temperature)`` over all T tasks of the run, ``r_t = L_t(e-1) / L_t(e-2)``, where L_t(e) is the mean
    training loss of epoch e. A task has weight 1 until two of its means are known, and the others share the rest of T. A
    task that an epoch does not visit keeps its two means.

    Differences from the paper:
      * with `window`, a mean covers that number of steps and ends at its multiples, which helps runs of few epochs: of
        three epochs, only the last would have unequal weights. The nash-mtl code also uses windows, of 25 steps.

    Native scale: sum.
    """

    native_scale = "sum"

    def __init__(
        self,
        run: RunFacts,
        *,
        temperature: Annotated[
            float, Field(gt=0, description="T in the paper; a higher value makes the weights more equal")
        ] = 2.0,
        window: Annotated[int | None, Field(ge=1, description="steps per mean; null: an epoch")] = None,
    ) -> None:
        super().__init__(run)
        self.temperature, self.window = temperature, window
        for name in ("last", "before", "sums", "counts"):
            self.register_buffer(name, torch.zeros(len(run.tasks)))
        self.last: Tensor
        self.before: Tensor
        self.sums: Tensor
        self.counts: Tensor

    def known_weights(self, tasks: Tensor) -> Tensor:
        """Return the weights (k,) of these tasks, a slice of those of all tasks."""
        has_two_means = self.before > 0
        # -inf removes tasks without two means from the softmax.
        rates = torch.where(has_two_means, self.last / self.before / self.temperature, -torch.inf)
        # While no task has two means, the softmax is NaN, and `where` selects 1 for every task.
        return torch.where(has_two_means, has_two_means.sum() * torch.softmax(rates, 0), 1.0)[tasks]

    def on_step(self, result: StepResult) -> None:
        """Add the losses to the window's means, and close the window at its last step."""
        if self.window is None:
            return
        self.sums[result.tasks] += result.losses
        self.counts[result.tasks] += 1
        # Windows end at multiples of their length, so that a resumed run closes them at the same steps.
        if result.step % self.window == 0:
            pairs = zip(self.sums.tolist(), self.counts.tolist(), strict=True)
            self._record({task: total / count for task, (total, count) in enumerate(pairs) if count})
            self.sums.zero_()
            self.counts.zero_()

    def on_epoch(self, result: EpochResult) -> None:
        """Record the epoch's mean losses."""
        if self.window is None:
            self._record(result.losses)

    def _record(self, means: Mapping[int, float]) -> None:
        for task, mean in means.items():
            self.before[task] = self.last[task]
            self.last[task] = max(mean, EPSILON)
