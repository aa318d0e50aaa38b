"""PCGrad (gradient surgery): Yu et al., NeurIPS 2020, arXiv:2001.06782, Algorithm 1."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale


class PCGrad(GradientRegularizer):
    """Remove from each task's gradient the components that oppose other tasks, in random order.

    For each task i and each j != i in random order, if ``g'_i . g_j < 0``: ``g'_i -= (g'_i . g_j) / |g_j|^2 g_j``, with the
    running g'_i and the *original* g_j; the update is the sum of the g'_i. Only inner products are needed: row i of `mix`
    holds the coefficients of task i's projected gradient, so mix @ gram gives its inner products with all original
    gradients.

    Differences from other implementations: some also project on the task's own gradient, use a fixed order, or take the
    mean. The algorithm printed by Ramos and Dalmia (Multi-Task Learning for Robust Contextualized Sentence Embedding
    Generation, 2023, section 4.6) has the wrong norm in the denominator.

    Native scale: sum.
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
        """Return weights (k,) from gram (k, k), float64 on the CPU."""
        inner = gram.tolist()  # k is small, so plain floats are faster than tensors
        k = len(inner)
        total = [0.0] * k
        for i in range(k):
            mix = [0.0] * k
            mix[i] = 1.0
            for j in torch.randperm(k, generator=self.generator).tolist():
                overlap = sum(m * g for m, g in zip(mix, inner[j], strict=True))
                # j = i is excluded, as in Algorithm 1: other projections can turn g'_i against g_i.
                if j != i and overlap < 0 and inner[j][j] > 0:
                    mix[j] -= overlap / inner[j][j]
            total = [a + b for a, b in zip(total, mix, strict=True)]
        return torch.tensor(total, dtype=gram.dtype)
