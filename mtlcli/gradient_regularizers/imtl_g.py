"""IMTL-G: Liu et al. (Towards Impartial Multi-task Learning), ICLR 2021."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import PRECISION, cosines

MIN_SUM = 0.1
"""Lower bound of the divisor sum v, relative to the sum of |v|."""


class IMTLG(GradientRegularizer):
    """Give the combined gradient the same projection on every task's gradient, whatever their lengths.

    With cosines C and norms n: ``v_t = (C^+ 1)_t / n_t`` and ``w = v / sum v``, so that the projection on every unit
    gradient is 1 / sum v. This equals the closed form of the paper as other implementations state it; the paper was not
    available. Weights can be negative.

    The projections are equal if the unit gradients are linearly independent. If they are dependent, no vector may project
    equally on all of them; C^+ then gives the nearest in the least-squares sense, and single projections can be negative:
    the gradients (1, 0), (0, 1), (-1, -2) get projections of 1.72, -0.17 and -0.62. Opposed gradients get weights of 0, and
    a zero gradient is ignored.

    If sum v is small, the weights explode, and if it is negative, every task's loss would rise. The divisor is therefore at
    least 0.1 sum |v|, which bounds the weights by 10 and keeps the sign of v. With two tasks sum v = sum |v|, and the bound
    has no effect. C^+ drops eigenvalues below 1e-6 of the largest, the precision of the Gram matrix.

    Differences from TorchJD: it divides by sum v, and returns zeros only below 1e-12.

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
        """Return weights (k,) from gram (k, k), float64 on the CPU."""
        cosine, norms = cosines(gram)
        if not bool(norms.any()):
            return torch.full_like(norms, 1 / len(norms))
        values, vectors = torch.linalg.eigh(cosine)
        has_rank = values > PRECISION * values[-1]
        # C^+ 1 from the eigenvalues, because C cannot be inverted if two gradients are parallel.
        equal = vectors @ torch.where(has_rank, vectors.sum(0) / values, 0.0)
        # Opposed gradients: no direction projects equally on both.
        if float(equal.abs().max()) < 1e-9:
            return torch.zeros_like(norms)
        v = torch.where(norms > 0, equal / norms, 0.0)
        return v / torch.maximum(v.sum(), MIN_SUM * v.abs().sum())
