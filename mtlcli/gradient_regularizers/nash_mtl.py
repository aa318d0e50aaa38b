"""Nash-MTL: Navon et al. (Multi-Task Learning as a Bargaining Game), ICML 2022, arXiv:2202.01017, Claim 3.1."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale
from mtlcli.gradient_regularizers.geometry import RIDGE, cosines, dot, solve


class NashMTL(GradientRegularizer):
    """Take the update that the tasks would agree on in a bargaining game, which maximizes the product of their gains.

    alpha > 0 solves ``alpha_t (gram alpha)_t = 1`` for every t (Claim 3.1). In ``beta_t = alpha_t |g_t|`` and cosines C,
    this is the minimum of the convex function ``beta . C beta / 2 - sum_t log beta_t``. The lengths of the gradients
    therefore do not matter, and the update always has length sqrt(k); `max_norm`, 1 as in the authors' code, shortens it.
    Gradients that can cancel have no solution (beta grows without bound); a ridge of 1e-5 on C keeps beta below 317, and
    opposed gradients cancel. A zero gradient is ignored.

    Differences from the authors' code:
      * damped Newton steps replace its sequence of cvxpy problems, whose stopping test also omits the norm it divides by;
      * only the shared parameters are weighted; it also multiplies the gradients of the heads by alpha.

    Native scale: own.
    """

    native_scale = "own"
    cost = "gradient rows and their Gram matrix"

    def __init__(
        self,
        run: RunFacts,
        *,
        max_norm: Annotated[
            float | None,
            Field(gt=0, description="largest length of the update in the native scale; null: sqrt(tasks), unchanged"),
        ] = 1.0,
        scale: Annotated[
            Scale,
            Field(description="native is the paper's length; mean and sum rescale the weights to a sum of 1 or k"),
        ] = "native",
    ) -> None:
        super().__init__(run)
        self.max_norm, self.scale = max_norm, scale

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """Return weights (k,) >= 0 from gram (k, k), float64 on the CPU."""
        cosine, lengths = cosines(gram)
        norms, inner = lengths.tolist(), cosine.tolist()
        # The weight of a zero gradient would be a quotient by its norm.
        nonzero = [t for t, norm in enumerate(norms) if norm > 0]
        inner = [[inner[i][j] for j in nonzero] for i in nonzero]
        beta = bargain([[c + RIDGE * (i == j) for j, c in enumerate(row)] for i, row in enumerate(inner)])
        # Without the ridge, because this is the length of the actual update.
        length = math.sqrt(max(dot(beta, (dot(row, beta) for row in inner)), 0.0))
        cut = 1.0 if self.max_norm is None or length <= self.max_norm else self.max_norm / length
        weights = [0.0] * len(norms)
        for t, value in zip(nonzero, beta, strict=True):
            weights[t] = cut * value / norms[t]
        return torch.tensor(weights, dtype=gram.dtype)


def bargain(matrix: list[list[float]]) -> list[float]:
    """Return the beta (k,) > 0 with beta_t (matrix beta)_t = 1 for a positive definite matrix (k, k)."""
    beta = [1.0] * len(matrix)
    for _ in range(100):
        slope = [1 / b - dot(row, beta) for row, b in zip(matrix, beta, strict=True)]
        # The Hessian, matrix + diag(1 / beta^2).
        curved = [[m + (i == j) / beta[i] ** 2 for j, m in enumerate(row)] for i, row in enumerate(matrix)]
        step = solve(curved, slope)
        if step is None:  # lost to rounding
            break
        decrement = math.sqrt(max(dot(slope, step), 0.0))
        share = 1.0 if decrement < 0.25 else 1 / (1 + decrement)  # self-concordance keeps beta positive
        beta = [b + share * s for b, s in zip(beta, step, strict=True)]
        if decrement < 1e-9:
            break
    return beta
