"""Aligned-MTL: Senushkin et al., CVPR 2023, arXiv:2305.19000, Algorithm 1."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale


class AlignedMTL(GradientRegularizer):
    """Replaces the tasks' gradients by the nearest ones that are orthogonal and of one length, and adds those.

    With gram = V diag(lambda) V^T: B = sqrt(scale) V diag(lambda^-1/2) V^T and w = B 1, where `scale` is the smallest
    eigenvalue (the paper), their median (the lower one of two) or their mean (`rmse`). Eigenvalues below k times float32's
    epsilon of the largest are left out, as in the authors' code, whose gradients are float32. Native scale: sum, as in the
    authors' code; TorchJD takes the mean.
    """

    native_scale = "sum"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        scale_mode: Annotated[
            Literal["min", "median", "rmse"], Field(description="the squared length that all aligned gradients get")
        ] = "min",
        scale: Annotated[Scale, Field(description="native is sum; mean divides by the number of tasks")] = "native",
    ) -> None:
        super().__init__(run)
        self.scale_mode, self.scale = scale_mode, scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k) float64 on the CPU -> weights (k,)."""
        values, vectors = torch.linalg.eigh(gram)  # rising
        kept = values > values[-1] * len(gram) * torch.finfo(torch.float32).eps
        if not bool(kept.any()):
            return torch.ones_like(values)
        values, vectors = values[kept], vectors[:, kept]
        scale = {"min": values[0], "median": values.median(), "rmse": values.mean()}[self.scale_mode]
        return vectors @ (vectors.sum(0) * (scale / values).sqrt())
