"""Representation alignment: Xing, Zhu, Zhang, COLING 2018, C18-1307; CMD: Zellinger et al., ICLR 2017, arXiv:1702.08811."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.plugin import SetupContext, StepResult
from mtlcli.regularizers.base import Forward, Regularizer

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Squared widths of the Gaussian kernels, relative to the mean squared distance."""
MOMENTS = 5


class RepresentationAlignment(Regularizer):
    """Pull the encodings of each task's texts towards the distribution of the other tasks' encodings.

    Adds ``weight * mean over the other tasks of distance(encodings of this batch, those of the other's last batch)``. The
    other side is a memory without gradient, because a step holds one task's graph at a time. The memory is updated after
    each step; until a task has been visited, it adds nothing. Both texts of a separately encoded pair count.

    - kl: ``KL(p||q) + KL(q||p)`` of ``p = mean_i softmax(x_i)`` (Xing's code; Zellinger's equation 4).
    - mmd: squared maximum mean discrepancy (Zellinger's equation 3) with the mean of five Gaussian kernels whose widths
      follow the mean distance in both batches.
    - cmd: central moment discrepancy of 5 moments (Zellinger's equation 6), of the sigmoids, because it requires bounded
      activations.

    Differences from Xing's code:
      * it caps kl at 10;
      * it sums 19 kernels of fixed widths, 1e-6 to 1e6, and stops mmd below 1e-4;
      * it computes cmd of the LSTM's activations.
    """

    coupling = "memory"
    cost = "distances between the batch's encodings and some of every other task"

    def __init__(
        self,
        run: RunFacts,
        *,
        weight: Annotated[float, Field(ge=0, description="weight of the distance; 0.05 in the paper's code")] = 0.05,
        distance: Annotated[
            Literal["kl", "mmd", "cmd"], Field(description="distance between two sets of encodings")
        ] = "kl",
        memory: Annotated[int, Field(ge=1, description="number of encodings stored of each task's last batch")] = 64,
    ) -> None:
        super().__init__(run)
        self.weight, self.rows = weight, memory
        self.distance = {"kl": mean_kl, "mmd": squared_mmd, "cmd": central_moment_discrepancy}[distance]
        # Not in the memory until the step is known not to be skipped.
        self.unconfirmed: dict[int, Tensor] = {}

    def setup(self, context: SetupContext) -> None:
        """Allocate the memory."""
        tasks = len(self.run.tasks)
        self.register_buffer("memory", torch.zeros(tasks, self.rows, context.dim))
        self.register_buffer("filled", torch.zeros(tasks, dtype=torch.long))
        self.memory: Tensor
        self.filled: Tensor

    def forward(self, forward: Forward) -> Tensor | None:
        """Return the weighted mean distance, or None before any other task has been visited."""
        encodings = forward.pooled().float()
        self.unconfirmed[forward.task] = encodings.detach()[: self.rows]
        memories = [
            self.memory[task, :count]
            for task, count in enumerate(self.filled.tolist())
            if count and task != forward.task
        ]
        if not memories:
            return None
        # Moments and kernels lose too much precision in bf16.
        with torch.autocast(encodings.device.type, enabled=False):
            return self.weight * torch.stack([self.distance(encodings, memory) for memory in memories]).mean()

    def on_step(self, result: StepResult) -> None:
        """Store the encodings of the step's tasks, and discard those of skipped steps."""
        for task in result.tasks.tolist():
            rows = self.unconfirmed.get(task)
            if rows is not None:
                self.memory[task, : len(rows)] = rows
                self.filled[task] = len(rows)
        self.unconfirmed.clear()


def mean_kl(x: Tensor, y: Tensor) -> Tensor:
    """Return the symmetric KL of the mean softmax of x (n, dim) and of y (m, dim)."""
    # A probability can underflow to 0, of which the logarithm is -inf.
    p, q = (torch.softmax(encodings, -1).mean(0).clamp_min(1e-30) for encodings in (x, y))
    return ((p - q) * (p.log() - q.log())).sum()


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of x (n, dim) and y (m, dim) over all pairs, from 0 to 2."""
    both = torch.cat([x, y])
    # Centering changes no distance and reduces cancellation below.
    both = both - both.mean(0).detach()
    squares = both.square().sum(-1)
    # Rounding can make the distance of equal rows negative.
    distances = (squares.unsqueeze(1) + squares - 2 * both @ both.T).clamp_min(0)
    # Detached, so that the kernel widths are constants.
    mean = distances.detach().sum() / max(1, len(both) * (len(both) - 1))  # the diagonal is 0
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    kernels = torch.stack([torch.exp(-distances / (width * mean)) for width in WIDTHS]).mean(0)
    # The three means, within x, within y and between them, as one quadratic form.
    sides = torch.cat([x.new_full((len(x),), 1 / len(x)), y.new_full((len(y),), -1 / len(y))])
    return sides @ kernels @ sides


def central_moment_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Return ||E x - E y|| + sum_k ||c_k(x) - c_k(y)||, k = 2 to 5, of the sigmoids of x (n, dim) and y (m, dim)."""
    x, y = torch.sigmoid(x), torch.sigmoid(y)
    means = x.mean(0), y.mean(0)
    total = torch.linalg.vector_norm(means[0] - means[1])
    for order in range(2, MOMENTS + 1):
        moments = [((values - mean) ** order).mean(0) for values, mean in zip((x, y), means, strict=True)]
        total = total + torch.linalg.vector_norm(moments[0] - moments[1])
    return total
