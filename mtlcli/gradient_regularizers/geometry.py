"""What several methods make of a Gram matrix: cosines, the nonnegative minimum, the shortest convex combination.

The number of tasks is small, so these work on plain numbers, which is faster than on tensors.
"""

import math
from collections.abc import Iterable
from operator import mul

import torch
from torch import Tensor

Matrix = list[list[float]]

PRECISION = 1e-6
"""The engine's Gram matrix is exact to this share of the norms: smaller eigenvalues of a cosine matrix mean nothing."""

RIDGE = 10 * PRECISION
"""Added to the diagonal of a cosine matrix where a method needs it positive definite."""


def dot(first: Iterable[float], second: Iterable[float]) -> float:
    """The inner product, over the length of the shorter one."""
    return sum(map(mul, first, second))


def cosines(gram: Tensor) -> tuple[Tensor, Tensor]:
    """gram (k, k) -> cosines (k, k) and norms (k,). A zero gradient has norm 0, and cosine 0 with all and with itself."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    norms = torch.where(norms > 1e-15, norms, 0.0)  # below it, float32 loses the squares
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    return gram * torch.outer(inverse, inverse), norms


def solve(matrix: Matrix, right: list[float]) -> list[float] | None:
    """The solution (k,) of matrix (k, k) x = right, by Cholesky; None where the matrix is not clearly positive definite."""
    k = len(right)
    lower: Matrix = []
    x: list[float] = []
    for i in range(k):
        row: list[float] = []
        for j in range(i):
            row.append((matrix[i][j] - dot(row, lower[j])) / lower[j][j])
        pivot = matrix[i][i] - dot(row, row)
        if not pivot > 1e-13 * matrix[i][i]:
            return None
        root = math.sqrt(pivot)
        x.append((right[i] - dot(row, x)) / root)
        lower.append([*row, root])
    for i in reversed(range(k)):
        x[i] = (x[i] - sum(lower[j][i] * x[j] for j in range(i + 1, k))) / lower[i][i]
    return x


def nonnegative_minimum(matrix: Matrix, linear: list[float]) -> list[float]:
    """argmin of x . matrix x / 2 - linear . x over x >= 0, by the active set of Lawson and Hanson (1974, chapter 23).

    matrix (k, k) is positive semi-definite and linear (k,) in its range. Exact but for rounding, in about k small solves.
    """
    k = len(linear)
    x = [0.0] * k
    free: list[int] = []
    refused: set[int] = set()
    scale = [math.sqrt(max(matrix[i][i], 0.0)) for i in range(k)]  # decisions are made as if every diagonal were 1
    tolerance = 1e-12 * max((abs(c) / s for c, s in zip(linear, scale, strict=True) if s > 0), default=0.0)
    for _ in range(10 * k):
        waiting = [i for i in range(k) if scale[i] > 0 and i not in free and i not in refused]
        gains = [((linear[i] - dot(matrix[i], x)) / scale[i], i) for i in waiting]
        gain, entering = max(gains, default=(0.0, -1))
        if gain <= tolerance:
            break
        free.append(entering)
        while free:
            found = solve([[matrix[i][j] for j in free] for i in free], [linear[i] for i in free])
            if found is None or (x[entering] == 0 and found[-1] <= 0):  # it depends on the others, but for rounding
                free.remove(entering)
                refused.add(entering)
                x[entering] = 0.0
                break
            shares = {i: x[i] / (x[i] - to) for i, to in zip(free, found, strict=True) if to <= 0}
            share = min(shares.values(), default=1.0)
            for i, to in zip(free, found, strict=True):
                x[i] = 0.0 if i in shares and shares[i] <= share else x[i] + share * (to - x[i])
            if not shares:
                refused.clear()
                break
            free = [i for i in free if x[i] > 0]
    return x


def shortest(gram: Matrix) -> list[float]:
    """Weights (k,) >= 0 of sum 1 whose combination of vectors with these inner products (k, k) is the shortest.

    For any c > 0, the x >= 0 with the least |sum_i x_i g_i|^2 + c (sum_i x_i - 1)^2 is a multiple of them.
    """
    least = min(gram[i][i] for i in range(len(gram)))
    if least <= 0:
        zero = [gram[i][i] <= 0 for i in range(len(gram))]
        return [one / sum(zero) for one in zero]
    x = nonnegative_minimum([[g + least for g in row] for row in gram], [least] * len(gram))
    total = sum(x)
    return [value / total for value in x]
