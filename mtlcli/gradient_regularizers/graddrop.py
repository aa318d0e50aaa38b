"""GradDrop (gradient sign dropout): Chen et al., NeurIPS 2020, arXiv:2010.06808, Algorithm 1."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale

CHUNK = 1 << 20
"""Coordinates that are drawn for and combined at a time."""


class GradDrop(GradientRegularizer):
    """Draws one sign per parameter and drops the gradients of the other sign, so that no two tasks pull against each other.

    At each coordinate p is the sum of the positive gradients and n that of the negative ones without their sign. The sign is
    positive with probability P = (1 + sum g / sum |g|) / 2 = p / (p + n), and p or -n is kept; the expected update is the
    plain sum. `leak` lets that share of every gradient through (the paper's l_i, the same for all tasks). The paper draws
    for the activations where the tasks part; here it is for the shared parameters themselves, as in TorchJD. Native scale:
    sum.
    """

    native_scale = "sum"
    reads_rows = True
    cost = "gradient rows, and one random number per shared parameter"

    def __init__(
        self,
        run: RunFacts,
        *,
        leak: Annotated[float, Field(ge=0, le=1, description="share of every gradient that is never dropped")] = 0.0,
        scale: Annotated[Scale, Field(description="native is sum; mean divides by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.leak, self.scale = leak, scale

    def combine(self, rows: Tensor, gram: Tensor, tasks: Tensor) -> Tensor:
        """rows (k, P) on their device, overwritten -> (P,), which is row 0."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        random = torch.Generator(rows.device).manual_seed(seed)
        for chunk in rows.split(CHUNK, dim=1):
            total = chunk.sum(0)
            positive = chunk.clamp(min=0).sum(0)
            drawn = torch.rand(len(total), generator=random, device=rows.device)
            size = 2 * positive - total  # p + n
            kept = torch.where(drawn * size < positive, positive, total - positive)
            chunk[0] = kept if self.leak == 0 else torch.lerp(kept, total, self.leak)
        return rows[0]
