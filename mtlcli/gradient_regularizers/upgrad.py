"""UPGrad: Quinton and Rey (Jacobian Descent for Multi-Objective Optimization), 2024, arXiv:2406.16232, equation 3."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import RIDGE, cosines, nonnegative_minimum


class UPGrad(GradientRegularizer):
    """Change each task's gradient by the minimum that makes it oppose no task, and take the mean of the results.

    Task i's projection on the dual cone of the gradients is ``sum_j v_j g_j`` with ``v = argmin v . gram v`` over v >= e_i
    (Proposition 1), solved exactly by an active set. The update opposes no task, which PCGrad guarantees for two tasks
    only. The problem is solved for gradients of norm 1, which does not change the solution, so that small gradients are not
    hidden by the ridge of 1e-5 that parallel gradients require.

    Differences from TorchJD: it divides by the trace and adds 1e-4, so that it overlooks a conflict with a gradient 100
    times shorter, and all conflicts if the trace is below 1e-4.

    Native scale: mean.
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
        """Return weights (k,) >= 1 / k from gram (k, k), float64 on the CPU."""
        cosine, lengths = cosines(gram)
        matrix, norms = cosine.tolist(), lengths.tolist()
        k = len(norms)
        total = [1.0] * k
        for i in range(k):
            matrix[i][i] += RIDGE
        for i in range(k):
            # Without a conflict the projection is the gradient itself.
            if min(matrix[i]) < 0:
                added = nonnegative_minimum(matrix, [-m for m in matrix[i]])  # v = e_i + added
                # A zero gradient has a = 0, and its norm cannot be a divisor.
                total = [t + (a * norms[i] / n if a else 0.0) for t, a, n in zip(total, added, norms, strict=True)]
        return torch.tensor([t / k for t in total], dtype=gram.dtype)
