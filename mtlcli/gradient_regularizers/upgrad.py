"""UPGrad: Quinton and Rey (Jacobian Descent for Multi-Objective Optimization), 2024, arXiv:2406.16232, equation 3."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import RIDGE, cosines, nonnegative_minimum


class UPGrad(GradientRegularizer):
    """Changes each task's gradient as little as makes it oppose no other task's, and takes the mean of those.

    Task i's projection on the dual cone of the gradients is sum_j v_j g_j with v = argmin v . gram v over v >= e_i
    (Proposition 1), solved exactly by an active set. So the update opposes no task, which PCGrad promises for two tasks
    only. The problem is solved for gradients of norm 1, which changes nothing but lets small gradients count under the ridge
    of 1e-5 that parallel ones need. TorchJD divides by the trace and adds 1e-4, so that a conflict with a gradient 100 times
    shorter is overlooked, as are all where the trace is below 1e-4. Native scale: mean.
    """

    native_scale = "mean"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        scale: Annotated[Scale, Field(description="native is mean; sum multiplies by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.scale = scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k) float64 on the CPU -> weights (k,) >= 1 / k."""
        cosine, lengths = cosines(gram)
        matrix, norms = cosine.tolist(), lengths.tolist()
        k = len(norms)
        total = [1.0] * k
        for i in range(k):
            matrix[i][i] += RIDGE
        for i in range(k):
            if min(matrix[i]) < 0:
                added = nonnegative_minimum(matrix, [-m for m in matrix[i]])  # v = e_i + added
                total = [t + (a * norms[i] / n if a else 0.0) for t, a, n in zip(total, added, norms, strict=True)]
        return torch.tensor([t / k for t in total], dtype=gram.dtype)
