"""Aligned-MTL: Senushkin et al., CVPR 2023, arXiv:2305.19000, Algorithm 1."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale


class AlignedMTL(GradientRegularizer):
    """Replace the task gradients by the nearest orthogonal ones of equal length, and sum those.

    With ``gram = V diag(lambda) V^T``: ``B = sqrt(scale) V diag(lambda^-1/2) V^T`` and ``w = B 1``, where `scale` is the
    smallest eigenvalue (the paper), their median (the lower of the two in the middle) or their mean (`rmse`). As in the
    authors' code, eigenvalues below k times the epsilon of float32, relative to the largest, are dropped.

    Differences from TorchJD: it takes the mean of the aligned gradients; the sum is that of the authors' code.

    Native scale: sum.
    """

    native_scale = "sum"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        scale_mode: Annotated[
            Literal["min", "median", "rmse"],
            Field(description="squared length of the aligned gradients: an eigenvalue of the Gram matrix"),
        ] = "min",
        scale: Annotated[Scale, Field(description="native is sum; mean divides by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.scale_mode, self.scale = scale_mode, scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (k,) from gram (k, k), float64 on the CPU."""
        values, vectors = torch.linalg.eigh(gram)  # ascending
        # The epsilon of float32, because the gradients of which gram is computed are float32.
        has_rank = values > values[-1] * len(gram) * torch.finfo(torch.float32).eps
        # Only if all gradients are zero; the weights then do not matter.
        if not bool(has_rank.any()):
            return torch.ones_like(values)
        values, vectors = values[has_rank], vectors[:, has_rank]
        scale = {"min": values[0], "median": values.median(), "rmse": values.mean()}[self.scale_mode]
        # B 1 = V diag(sqrt(scale / lambda)) V^T 1, without computing B.
        return vectors @ (vectors.sum(0) * (scale / values).sqrt())
