"""IMTL-G: Liu et al. (Towards Impartial Multi-task Learning), ICLR 2021, the gradient balance, second hand."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import PRECISION, cosines

SHARE = 0.1
"""Least sum of v that is divided by, as a share of the sum of |v|."""


class IMTLG(GradientRegularizer):
    """Gives the combined gradient the same projection on every task's gradient, however long those are.

    With cosines C and norms n: v_t = (C^+ 1)_t / n_t, w = v / sum v, so that the projection on every unit gradient is
    1 / sum v; the closed form of the paper, as other codes have it, is the same. Weights may be negative. Where sum v is
    small the weights explode, and where it is negative every task's loss would rise; so no less than 0.1 sum |v| is divided
    by, which bounds the weights by 10 and keeps every projection positive. TorchJD divides by sum v, and gives zeros only
    below 1e-12. With two tasks sum v = sum |v|, and nothing differs. C^+ leaves out eigenvalues below 1e-6 of the largest:
    the Gram matrix is no more exact than that. Opposed gradients get weights of
    0, as nothing else projects equally on both; a zero gradient takes no part. Native scale: mean.
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
        """gram (k, k) float64 on the CPU -> weights (k,)."""
        cosine, norms = cosines(gram)
        if not bool(norms.any()):
            return torch.full_like(norms, 1 / len(norms))
        values, vectors = torch.linalg.eigh(cosine)
        kept = values > PRECISION * values[-1]
        equal = vectors @ torch.where(kept, vectors.sum(0) / values, 0.0)
        if float(equal.abs().max()) < 1e-9:
            return torch.zeros_like(norms)
        v = torch.where(norms > 0, equal / norms, 0.0)
        return v / torch.maximum(v.sum(), SHARE * v.abs().sum())
