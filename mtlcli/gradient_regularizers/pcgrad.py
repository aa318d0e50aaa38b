"""PCGrad (gradient surgery): Yu et al., NeurIPS 2020, arXiv:2001.06782, Algorithm 1."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale


class PCGrad(GradientRegularizer):
    """Removes from each task's gradient what opposes another task's, taking the others in random order.

    Each projection is of the running gradient on the plane normal to the *original* gradient of the other task, and the
    update is the sum (native scale). Only inner products are needed: row i of `mix` says what task i's projected gradient
    is made of, so mix @ gram gives its inner products with all original ones. RD 4.6 prints the wrong norm in the
    denominator, and well-known codes also project on the task's own gradient or use a fixed order; this is Algorithm 1.
    """

    native_scale = "sum"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        scale: Annotated[Scale, Field(description="native is sum; mean divides by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.scale = scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k) float64 on the CPU -> weights (k,)."""
        inner = gram.tolist()  # k is small: plain numbers are faster than tensors
        k = len(inner)
        total = [0.0] * k
        for i in range(k):
            mix = [0.0] * k
            mix[i] = 1.0
            for j in torch.randperm(k, generator=self.generator).tolist():
                overlap = sum(m * g for m, g in zip(mix, inner[j], strict=True))
                if j != i and overlap < 0 and inner[j][j] > 0:
                    mix[j] -= overlap / inner[j][j]
            total = [a + b for a, b in zip(total, mix, strict=True)]
        return torch.tensor(total, dtype=gram.dtype)
