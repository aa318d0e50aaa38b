"""GradVac (gradient vaccine): Wang et al., ICLR 2021, arXiv:2010.05874, second hand."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Granularity, Scale
from mtlcli.plugin import SetupContext

LIMIT = 1 - 1e-6
"""Cosines are kept within -LIMIT and LIMIT: rounding takes them past 1, and the formula divides by the sine."""


class GradVac(GradientRegularizer):
    """Brings each pair of tasks' gradients up to the cosine that is usual for them, also where they do not conflict.

    Where the cosine phi of task i's running gradient g'_i with task j's original g_j is below its target T,
    g'_i += |g'_i| (T sqrt(1 - phi^2) - phi sqrt(1 - T^2)) / (|g_j| sqrt(1 - T^2)) g_j, after which it is T; the update is the
    sum. T is a moving average, T <- (1 - beta) T + beta phi, from 0, one per ordered pair of tasks and block of parameters,
    moved after every use whether or not the gradient was. A fixed target of 0 is PCGrad.

    The paper was not opened. That phi is of the running gradient, and that beta is 0.01, is as other codes have it; the order
    of the j is drawn anew at every step, as in PCGrad, the same for all blocks. LibMTL and TorchJD have beta = 0.5; a
    code that moves T only where phi < T lets no target rise above 0. Pairs with a zero gradient are left alone. Native scale:
    sum.
    """

    native_scale = "sum"
    cost = "gradient rows and their Gram matrix, one per block"

    def __init__(
        self,
        run: RunFacts,
        *,
        target: Annotated[
            float | None, Field(gt=-1, lt=1, description="cosine to bring every pair to; null: its moving average")
        ] = None,
        beta: Annotated[float, Field(ge=0, le=1, description="how fast the moving averages move")] = 0.01,
        granularity: Annotated[
            Granularity, Field(description="one target for all shared parameters, for each layer, or for each tensor")
        ] = "whole",
        scale: Annotated[Scale, Field(description="native is sum; mean divides by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.beta = 0.0 if target is not None else beta
        self.start = 0.0 if target is None else target
        self.granularity, self.scale = granularity, scale
        self.targets: Tensor
        self._make(1)

    def setup(self, start: SetupContext) -> None:
        """Makes the targets (blocks, tasks, tasks)."""
        if self.granularity != "whole":
            self._make(len(start.blocks(self.granularity)))

    def _make(self, blocks: int) -> None:
        k = len(self.run.tasks)
        self.register_buffer("targets", torch.full((blocks, k, k), self.start, dtype=torch.float64))

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k) float64 on the CPU, tasks (k,) -> weights (k,)."""
        return self.block_weights(gram.expand(len(self.targets), -1, -1), tasks)[0]

    def block_weights(self, grams: Tensor, tasks: Tensor) -> Tensor:
        """grams (blocks, k, k) float64 on the CPU, tasks (k,) -> weights (blocks, k)."""
        inner, targets, at = grams.numpy(), self.targets.numpy(), tasks.tolist()  # numpy has the smaller overhead
        k = len(at)
        norms = np.sqrt(np.maximum(inner.diagonal(axis1=1, axis2=2), 0))
        total = np.zeros_like(norms)
        for i in range(k):
            mix = np.zeros_like(norms)  # mix @ rows is task i's running gradient
            mix[:, i] = 1
            for j in torch.randperm(k, generator=self.generator).tolist():
                if j == i:
                    continue
                target = targets[:, at[i], at[j]]
                with_all = (inner @ mix[:, :, None])[:, :, 0]
                size = np.sqrt(np.maximum((with_all * mix).sum(1), 0))
                product = size * norms[:, j]
                there = product > 0
                cosine = np.clip(with_all[:, j] / np.where(there, product, 1), -LIMIT, LIMIT)
                aim = np.clip(target, -LIMIT, LIMIT)
                sine = np.sqrt(1 - aim * aim)
                added = size * (aim * np.sqrt(1 - cosine * cosine) - cosine * sine)
                added /= np.where(there, norms[:, j] * sine, 1)
                mix[:, j] += np.where(there & (cosine < aim), added, 0)
                target += np.where(there, self.beta * (cosine - target), 0)
            total += mix
        return torch.from_numpy(total)
