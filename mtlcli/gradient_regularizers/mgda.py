"""MGDA: Sener and Koltun, NeurIPS 2018, arXiv:1810.04650, equation 3, after Désidéri, 2012."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import cosines, shortest


class MGDA(GradientRegularizer):
    """Takes the shortest weighted mean of the tasks' gradients, along which no task's loss rises.

    w = argmin |sum_t w_t g_t|^2 over w >= 0, sum_t w_t = 1 (equation 3). The smallest gradient dominates, and a task whose
    gradient is zero stops the encoder: both are the method's. Solved exactly by an active set, where the paper's Algorithm 2
    and most codes take Frank-Wolfe steps, which approach the minimum slowly. `normalize: l2` finds w for the gradients
    divided by their norms and weighs the undivided ones with it, as the authors' code does; other codes combine the divided
    ones under the same name. Native scale: mean; nash-mtl's code multiplies by the number of tasks.
    """

    native_scale = "mean"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        normalize: Annotated[
            Literal["none", "l2"], Field(description="l2: the weights are those of gradients of norm 1")
        ] = "none",
        scale: Annotated[Scale, Field(description="native is mean; sum multiplies by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.normalize, self.scale = normalize, scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k) float64 on the CPU -> weights (k,) >= 0 of sum 1."""
        inner = cosines(gram)[0] if self.normalize == "l2" else gram
        return torch.tensor(shortest(inner.tolist()), dtype=gram.dtype)
