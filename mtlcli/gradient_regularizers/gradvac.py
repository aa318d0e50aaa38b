"""GradVac (gradient vaccine): Wang et al., ICLR 2021, arXiv:2010.05874."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Granularity, Scale
from mtlcli.plugin import SetupContext

LIMIT = 1 - 1e-6
"""Cosines are clamped to [-LIMIT, LIMIT]: rounding can push them past 1, and the formula divides by the sine."""


class GradVac(GradientRegularizer):
    """Raise the cosine of each pair of task gradients to its usual value, also if they do not conflict.

    If the cosine phi between task i's running gradient g'_i and task j's original g_j is below its target T, ``g'_i +=
    |g'_i| (T sqrt(1 - phi^2) - phi sqrt(1 - T^2)) / (|g_j| sqrt(1 - T^2)) g_j``, which makes it T; the update is the sum. T
    is a moving average, ``T <- (1 - beta) T + beta phi``, from 0, one per ordered pair of tasks and block of parameters. It
    is updated after every use, whether or not the gradient changed. A fixed target of 0 is PCGrad. Pairs with a zero
    gradient are skipped.

    The paper was not available. That phi uses the running gradient, and beta = 0.01, follow other implementations. The
    order of the j is drawn at every step, as in PCGrad, the same for all blocks.

    Differences from other implementations:
      * LibMTL and TorchJD use beta = 0.5;
      * an implementation that updates T only if phi < T never lets a target rise above 0.

    Native scale: sum.
    """

    native_scale = "sum"
    cost = "gradient rows and their Gram matrix, one per block"

    def __init__(
        self,
        run: RunFacts,
        *,
        target: Annotated[
            float | None, Field(gt=-1, lt=1, description="target cosine of every pair; null: its moving average")
        ] = None,
        beta: Annotated[float, Field(ge=0, le=1, description="rate of the moving averages")] = 0.01,
        granularity: Annotated[
            Granularity, Field(description="one target for all shared parameters, per layer, or per tensor")
        ] = "whole",
        scale: Annotated[Scale, Field(description="native is sum; mean divides by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        # A fixed target is a moving average that does not move.
        self.beta = 0.0 if target is not None else beta
        self.initial_target = 0.0 if target is None else target
        self.granularity, self.scale = granularity, scale
        self.targets: Tensor
        self._register_targets(1)

    def setup(self, context: SetupContext) -> None:
        """Allocate the targets (blocks, tasks, tasks)."""
        if self.granularity != "whole":
            self._register_targets(len(context.blocks(self.granularity)))

    def _register_targets(self, blocks: int) -> None:
        k = len(self.run.tasks)
        self.register_buffer("targets", torch.full((blocks, k, k), self.initial_target, dtype=torch.float64))

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (k,) from gram (k, k), float64, and tasks (k,), both on the CPU."""
        return self.block_weights(gram.expand(len(self.targets), -1, -1), tasks)[0]

    def block_weights(self, grams: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (blocks, k) from grams (blocks, k, k), float64, and tasks (k,), both on the CPU."""
        inner, targets, at = grams.numpy(), self.targets.numpy(), tasks.tolist()  # numpy has less overhead per call
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
                # (blocks, k): inner products of task i's running gradient with all original gradients.
                with_all = (inner @ mix[:, :, None])[:, :, 0]
                size = np.sqrt(np.maximum((with_all * mix).sum(1), 0))
                product = size * norms[:, j]
                is_nonzero = product > 0
                cosine = np.clip(with_all[:, j] / np.where(is_nonzero, product, 1), -LIMIT, LIMIT)
                goal = np.clip(target, -LIMIT, LIMIT)
                sine = np.sqrt(1 - goal * goal)
                added = size * (goal * np.sqrt(1 - cosine * cosine) - cosine * sine)
                # Where a gradient is zero the divisor is 1, only to avoid a warning; the quotient is not used.
                added /= np.where(is_nonzero, norms[:, j] * sine, 1)
                mix[:, j] += np.where(is_nonzero & (cosine < goal), added, 0)
                # In place: `target` is a view of the buffer. After its use, as in the formula.
                target += np.where(is_nonzero, self.beta * (cosine - target), 0)
            total += mix
        return torch.from_numpy(total)
