"""The contract of a gradient regularizer: Gram matrix (k, k) -> weights (k,), or rows (k, P) -> (P,) (survey 3.2)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtlcli.balancers.base import Need
from mtlcli.plugin import Plugin

Scale = Literal["native", "mean", "sum"]
Granularity = Literal["whole", "layer", "tensor"]


class GradientRegularizer(Plugin):
    """Combines the tasks' gradients on the shared parameters into one.

    Most methods are functions of the inner products alone and override `weights`; one that needs the gradients themselves
    sets `reads_rows` and overrides `combine`. `native_scale` says whether the combination of k equal gradients g is k g
    (`sum`), g (`mean`), or another multiple of g (`own`, only with `weights`) as its paper defines it; the option `scale`
    converts. With a `granularity` of `layer` or `tensor` each block of the shared parameters is combined by its own inner
    products.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"several-tasks"})
    native_scale: ClassVar[Literal["mean", "sum", "own"]] = "sum"
    reads_rows: ClassVar[bool] = False
    scale: Scale = "native"
    granularity: Granularity = "whole"

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k) float64 on the CPU, tasks (k,) on the CPU -> weights (k,) of the gradients, in the native scale."""
        raise NotImplementedError(f"{type(self).__qualname__} overrides neither weights nor combine")

    def block_weights(self, grams: Tensor, tasks: Tensor) -> Tensor:
        """grams (blocks, k, k), one for each block where `granularity` is not `whole` -> weights (blocks, k)."""
        return torch.stack([self.weights(gram, tasks) for gram in grams])

    def combine(self, rows: Tensor, gram: Tensor, tasks: Tensor) -> Tensor:
        """rows (k, P) on their device, which may be overwritten, gram (k, k), tasks (k,) -> (P,), in the native scale."""
        weights = self.weights(gram, tasks).to(rows)
        return torch.mv(rows.T, weights)

    def scaling(self, tasks: int, weights: Tensor | None = None) -> float:
        """Factor from the native scale to the one the user chose, for a step with so many tasks.

        weights (k,) are those of the native scale; a method with a scale of its own is brought to a sum of 1, or of k.
        """
        if self.scale in ("native", self.native_scale):
            return 1.0
        total = 1.0 if self.native_scale == "mean" else float(tasks)
        if self.native_scale == "own":
            total = 0.0 if weights is None else float(weights.sum())
            if total <= 1e-12:
                return 1.0
        return (float(tasks) if self.scale == "sum" else 1.0) / total
