"""GradDrop (gradient sign dropout): Chen et al., NeurIPS 2020, arXiv:2010.06808, Algorithm 1."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale

CHUNK = 1 << 20
"""Coordinates combined at a time, which bounds the memory of the temporaries."""


class GradDrop(GradientRegularizer):
    """Draw one sign per parameter and drop the gradients of the other sign, so that tasks never oppose each other.

    Per coordinate, p is the sum of the positive gradients and n the absolute sum of the negative ones. The sign is positive
    with probability ``P = (1 + sum g / sum |g|) / 2 = p / (p + n)``, and the update is p or -n; its expectation is the
    plain sum. `leak` is the fraction of every gradient that is not subject to dropping (the paper's l_i, equal for all
    tasks).

    Differences from the paper: it draws for the activations at which the tasks branch; here the draw is for the shared
    parameters, as in TorchJD.

    Native scale: sum.
    """

    native_scale = "sum"
    reads_rows = True
    cost = "gradient rows, and one random number per shared parameter"

    def __init__(
        self,
        run: RunFacts,
        *,
        leak: Annotated[float, Field(ge=0, le=1, description="fraction of every gradient that is never dropped")] = 0.0,
        scale: Annotated[Scale, Field(description="native is sum; mean divides by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.leak, self.scale = leak, scale

    def combine(self, rows: Tensor, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return the combination (P,) of rows (k, P) in place, as row 0."""
        # The plugin's generator is on the CPU and in the checkpoint; the draws are on the device.
        seed = int(torch.randint(2**62, (), generator=self.generator))
        random = torch.Generator(rows.device).manual_seed(seed)
        for chunk in rows.split(CHUNK, dim=1):
            total = chunk.sum(0)
            positive = chunk.clamp(min=0).sum(0)
            threshold = torch.rand(len(total), generator=random, device=rows.device)
            size = 2 * positive - total  # p + n
            # U < p / (p + n) without the division, which would be 0 / 0 where all gradients are 0.
            update = torch.where(threshold * size < positive, positive, total - positive)
            # Row 0 can be overwritten, because the sums of this chunk have been computed.
            chunk[0] = update if self.leak == 0 else torch.lerp(update, total, self.leak)
        return rows[0]
