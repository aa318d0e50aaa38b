"""CAGrad: Liu et al., NeurIPS 2021, arXiv:2110.14048, Algorithm 1."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import Matrix, dot, shortest, solve

MIN_S = 1e-3
"""Smallest s = |g_w| / (c |g_0|). Weights are at most 1 / s, so a smaller s would amplify rounding."""


class CAGrad(GradientRegularizer):
    """Turn the mean gradient towards the direction that helps the worst task, within a distance from the mean.

    ``d = g_0 + c |g_0| g_w / |g_w|`` with g_0 the mean and ``w = argmin g_w . g_0 + c |g_0| |g_w|`` over w >= 0, sum w = 1.

    With ``s = |g_w| / (c |g_0|)``, that w gives the shortest combination of the gradients g_t + s g_0, so a one-dimensional
    search for s replaces a general solver. If the gradients can cancel (g_w = 0), the formula divides zero by zero; s is
    kept above 1e-3, which gives a d in the same ball that conflicts with no task by more than a thousandth.

    Differences from other implementations:
      * in that case TorchJD returns zeros and the authors' code the mean;
      * the authors' code for NYUv2 and Cityscapes uses c = 0.4 and d T / (1 + c^2).

    Native scale: own. It is the paper's d, (1 + c) g for equal gradients g, as in TorchJD. `mean` is d / (1 + c), and `sum`
    is that times the number of tasks.
    """

    native_scale = "own"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        c: Annotated[
            float, Field(ge=0, le=10, description="largest distance of d from the mean, relative to the mean's length")
        ] = 0.5,
        scale: Annotated[
            Scale,
            Field(
                description="native is the paper's d; mean divides it by 1 + c; sum multiplies that by the number of tasks"
            ),
        ] = "native",
    ) -> None:
        super().__init__(run)
        self.c, self.scale = c, scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return positive weights (k,) from gram (k, k), float64 on the CPU."""
        k = len(gram)
        largest = float(gram.diagonal().max())
        inner = (gram / largest if largest > 0 else gram).tolist()
        with_mean = [sum(row) / k for row in inner]
        square = sum(with_mean) / k
        radius = self.c * math.sqrt(max(square, 0.0))
        if radius <= 1e-12:
            return torch.full_like(gram[0], 1 / k)

        below, above = 0.0, max(1 / radius, MIN_S)  # in units of the longest gradient, |g_w| is at most 1
        s = min(max(1 / self.c, MIN_S), above)  # exact if w is uniform
        # |g_w| is the minimum over s of |g_w|^2 / (2 radius s) + radius s / 2. The minimum over w is therefore convex
        # in s, and its slope has the sign of radius s - |g_w|. This justifies bisection, with steps to the exact s of a
        # support.
        for _ in range(60):
            # Inner products of the vectors g_t + s g_0.
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
            best = None if best is None else max(best, MIN_S)
            if above <= MIN_S or above - below <= 1e-9 * above or (best is not None and abs(best - s) <= 1e-9 * s):
                break
            s = best if best is not None and below < best < above else max((below + above) / 2, MIN_S)
        return torch.tensor([1 / k + weight / s for weight in w], dtype=gram.dtype)

    def scaling(self, tasks: int, weights: Tensor | None = None) -> float:
        """Return a constant, so that the length of d does not vary with the weights in any scale."""
        return {"native": 1.0, "mean": 1 / (1 + self.c), "sum": tasks / (1 + self.c)}[self.scale]


def _on_support(support: list[int], inner: Matrix, with_mean: list[float], radius: float) -> float | None:
    """Return the s that fits w if only the tasks of `support` have weight, or None if there is none.

    Then ``w = a + s e`` with ``|g_w|^2 = |g_a|^2 + s^2 |g_e|^2``, which has to equal ``(radius s)^2``. Because sum a = 1
    and sum e = 0, adding a constant to all inner products changes neither, and makes the system solvable for linearly
    dependent gradients.
    """
    constant = max(inner[i][i] for i in support)
    part = [[inner[i][j] + constant for j in support] for i in support]
    mean = [with_mean[i] for i in support]
    ones, means = solve(part, [1.0] * len(support)), solve(part, mean)
    if ones is None or means is None:
        return None
    remainder = radius * radius - (dot(mean, means) - sum(means) ** 2 / sum(ones))
    return math.sqrt(max(1 / sum(ones) - constant, 0.0) / remainder) if remainder > 0 else None
