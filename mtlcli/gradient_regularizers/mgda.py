"""MGDA: Sener and Koltun, NeurIPS 2018, arXiv:1810.04650, equation 3."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import cosines, shortest


class MGDA(GradientRegularizer):
    """Take the shortest convex combination of the task gradients, along which no task's loss rises.

    ``w = argmin |sum_t w_t g_t|^2`` over w >= 0, sum_t w_t = 1 (after Desideri, 2012). Two properties of the method: the
    smallest gradient dominates, and a task with zero gradient stops the encoder.

    Differences from the paper: an active set solves the problem exactly; Algorithm 2 and most implementations use
    Frank-Wolfe steps, which converge slowly.

    Differences from other implementations:
      * `normalize: l2` finds w for the gradients divided by their norms and applies it to the original ones, as the
        authors' code does; others combine the divided gradients under the same name;
      * nash-mtl multiplies by the number of tasks.

    Native scale: mean.
    """

    native_scale = "mean"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        normalize: Annotated[
            Literal["none", "l2"], Field(description="l2: find the weights for gradients of norm 1")
        ] = "none",
        scale: Annotated[Scale, Field(description="native is mean; sum multiplies by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.normalize, self.scale = normalize, scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (k,) >= 0 with sum 1 from gram (k, k), float64 on the CPU."""
        # Weights found for unit gradients are applied to the original ones.
        inner = cosines(gram)[0] if self.normalize == "l2" else gram
        return torch.tensor(shortest(inner.tolist()), dtype=gram.dtype)
