"""CAGrad: Liu et al., NeurIPS 2021, arXiv:2110.14048, Algorithm 1."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import Matrix, dot, shortest, solve

LEAST = 1e-3
"""Smallest s = |g_w| / (c |g_0|): no weight exceeds 1 / s, which would amplify rounding."""


class CAGrad(GradientRegularizer):
    """Turns the mean gradient towards what helps the worst-off task, but not far from the mean.

    d = g_0 + c |g_0| g_w / |g_w| with g_0 the mean and w = argmin g_w . g_0 + c |g_0| |g_w| over w >= 0, sum w = 1
    (Algorithm 1). With s = |g_w| / (c |g_0|) that w is the shortest combination of the gradients g_t + s g_0, so one search
    for s takes the place of a general solver. Where the gradients can cancel (g_w = 0) the formula divides zero by zero; s is
    kept above 1e-3, which gives a d in the same ball that goes against no task, but for a thousandth. TorchJD takes no step
    there, the authors' code the mean.

    Native scale: the paper's d, which is (1 + c) g for equal gradients g, as in TorchJD. `mean` is d / (1 + c), `sum` that
    times the number of tasks. The authors' code for NYUv2 and Cityscapes takes c = 0.4 and d T / (1 + c^2).
    """

    native_scale = "own"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        c: Annotated[float, Field(ge=0, le=10, description="how far d may be from the mean, in lengths of it")] = 0.5,
        scale: Annotated[
            Scale, Field(description="native is the paper's d; mean divides by 1 + c, sum multiplies that by the tasks")
        ] = "native",
    ) -> None:
        super().__init__(run)
        self.c, self.scale = c, scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k) float64 on the CPU -> weights (k,) > 0."""
        k = len(gram)
        largest = float(gram.diagonal().max())
        inner = (gram / largest if largest > 0 else gram).tolist()
        with_mean = [sum(row) / k for row in inner]
        square = sum(with_mean) / k
        radius = self.c * math.sqrt(max(square, 0.0))
        if radius <= 1e-12:
            return torch.full_like(gram[0], 1 / k)

        below, above = 0.0, max(1 / radius, LEAST)  # in units of the longest gradient, |g_w| is at most 1
        s = min(max(1 / self.c, LEAST), above)  # right where w is uniform
        for _ in range(60):
            shifted = [
                [g + s * (a + b) + s * s * square for g, b in zip(row, with_mean, strict=True)]
                for row, a in zip(inner, with_mean, strict=True)
            ]
            w = shortest(shifted)
            if math.sqrt(max(dot(w, (dot(row, w) for row in inner)), 0.0)) > radius * s:
                below = s
            else:
                above = s
            best = _on_support([t for t, weight in enumerate(w) if weight > 0], inner, with_mean, radius)
            best = None if best is None else max(best, LEAST)
            if above <= LEAST or above - below <= 1e-9 * above or (best is not None and abs(best - s) <= 1e-9 * s):
                break
            s = best if best is not None and below < best < above else max((below + above) / 2, LEAST)
        return torch.tensor([1 / k + weight / s for weight in w], dtype=gram.dtype)

    def scaling(self, tasks: int, weights: Tensor | None = None) -> float:
        """A constant, so that d keeps its length from step to step in every scale."""
        return {"native": 1.0, "mean": 1 / (1 + self.c), "sum": tasks / (1 + self.c)}[self.scale]


def _on_support(support: list[int], inner: Matrix, with_mean: list[float], radius: float) -> float | None:
    """The s that fits w where only the tasks of `support` have weight; None where there is none.

    There w = a + s e with |g_w|^2 = |g_a|^2 + s^2 |g_e|^2, which is to be (radius s)^2. As sum a = 1 and sum e = 0, adding a
    constant to all inner products changes neither, and lets gradients depend on each other.
    """
    constant = max(inner[i][i] for i in support)
    part = [[inner[i][j] + constant for j in support] for i in support]
    mean = [with_mean[i] for i in support]
    ones, means = solve(part, [1.0] * len(support)), solve(part, mean)
    if ones is None or means is None:
        return None
    left = radius * radius - (dot(mean, means) - sum(means) ** 2 / sum(ones))
    return math.sqrt(max(1 / sum(ones) - constant, 0.0) / left) if left > 0 else None
