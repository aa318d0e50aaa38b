"""DWA (dynamic weight average): Liu, Johns, Davison, CVPR 2019, arXiv:1803.10704."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.balancers.base import Balancer
from mtlcli.facts import RunFacts
from mtlcli.plugin import EpochResult, StepResult

SMALLEST = 1e-8
"""What a mean loss of zero counts as: 0 stands for a mean that is not known yet."""


class DWA(Balancer):
    """Weighs each task by how slowly its loss fell from one epoch to the next; the slowest pulls most.

    w = T softmax(r / temperature) over all T tasks of the run, r_t = L_t(e-1) / L_t(e-2), L_t(e) the mean training loss of
    epoch e. A task counts 1 until two of its means are known, and the others share the rest of T; one that an epoch does
    not visit keeps its two means. With `window` the means are those of so many steps, ending at its multiples, for runs of
    few epochs: with three, only the last would have weights of its own (nash-mtl's code takes 25 steps). Native scale: sum.
    """

    native_scale = "sum"

    def __init__(
        self,
        run: RunFacts,
        *,
        temperature: Annotated[
            float, Field(gt=0, description="the larger, the more alike the weights (T of the paper)")
        ] = 2.0,
        window: Annotated[
            int | None, Field(ge=1, description="steps over which a mean is taken; null: an epoch")
        ] = None,
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
        """The weights of these tasks (k,): a slice of those of all tasks."""
        known = self.before > 0
        rates = torch.where(known, self.last / self.before / self.temperature, -torch.inf)
        return torch.where(known, known.sum() * torch.softmax(rates, 0), 1.0)[tasks]

    def on_step(self, result: StepResult) -> None:
        """Adds to the means of the window, and closes it at its last step."""
        if self.window is None:
            return
        self.sums[result.tasks] += result.losses
        self.counts[result.tasks] += 1
        if result.step % self.window == 0:
            pairs = zip(self.sums.tolist(), self.counts.tolist(), strict=True)
            self._remember({task: total / count for task, (total, count) in enumerate(pairs) if count})
            self.sums.zero_()
            self.counts.zero_()

    def on_epoch(self, result: EpochResult) -> None:
        """Takes the epoch's means."""
        if self.window is None:
            self._remember(result.losses)

    def _remember(self, means: Mapping[int, float]) -> None:
        for task, mean in means.items():
            self.before[task] = self.last[task]
            self.last[task] = max(mean, SMALLEST)
