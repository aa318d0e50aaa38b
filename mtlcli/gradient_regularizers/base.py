"""The contract of a gradient regularizer: Gram matrix (k, k) to weights (k,), or gradient rows (k, P) to (P,)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtlcli.balancers.base import Need
from mtlcli.plugin import Plugin

Scale = Literal["native", "mean", "sum"]
Granularity = Literal["whole", "layer", "tensor"]


class GradientRegularizer(Plugin):
    """Combines the task gradients on the shared parameters into one.

    Most methods are functions of the inner products alone and override `weights`; a method that needs the gradients sets
    `reads_rows` and overrides `combine`. Gradients arrive multiplied by the balancer's weight and the weight of the task's
    visit, one row per task, however often the scheduler drew it. Methods that ignore the length of a gradient (IMTL-G,
    Nash-MTL, MGDA with `normalize: l2`) therefore ignore how often a task was drawn too.

    `native_scale` states what the method makes of k equal gradients g: k g (`sum`), g (`mean`), or another multiple of g
    (`own`, only with `weights`); the option `scale` converts. With a `granularity` of `layer` or `tensor`, the method runs
    separately on each block of the shared parameters.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"several-tasks"})
    native_scale: ClassVar[Literal["mean", "sum", "own"]] = "sum"
    reads_rows: ClassVar[bool] = False
    scale: Scale = "native"
    granularity: Granularity = "whole"

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (k,) of the gradients in the native scale, from gram (k, k), float64, and tasks (k,), both on the CPU."""
        raise NotImplementedError(f"{type(self).__qualname__} overrides neither weights nor combine")

    def block_weights(self, grams: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (blocks, k) from grams (blocks, k, k), for a `granularity` other than `whole`."""
        # One block after another; a method can override this to handle all blocks at once, as GradVac does.
        return torch.stack([self.weights(gram, tasks) for gram in grams])

    def combine(self, rows: Tensor, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return the combination (P,) in the native scale of rows (k, P), which may be overwritten; gram (k, k), tasks (k,)."""
        # Weights are float64 on the CPU, rows float32 on the device.
        weights = self.weights(gram, tasks).to(rows)
        return torch.mv(rows.T, weights)

    def scaling(self, tasks: int, weights: Tensor | None = None) -> float:
        """Return the factor from the native scale to the selected one, for a step of `tasks` tasks.

        weights (k,) are those of the native scale; a method of scale `own` is rescaled so that they sum to 1 or k.
        """
        if self.scale in ("native", self.native_scale):
            return 1.0
        total = 1.0 if self.native_scale == "mean" else float(tasks)
        if self.native_scale == "own":
            total = 0.0 if weights is None else float(weights.sum())
            if total <= 1e-12:  # weights that cancel cannot be brought to a sum
                return 1.0
        return (float(tasks) if self.scale == "sum" else 1.0) / total
