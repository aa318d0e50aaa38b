"""Shared steps of several methods on a Gram matrix: cosines, nonnegative minimum, shortest convex combination.

The number of tasks is small, so plain floats are faster than tensors.
"""

import math
from collections.abc import Iterable
from operator import mul

import torch
from torch import Tensor

Matrix = list[list[float]]

PRECISION = 1e-6
"""Relative error of the engine's Gram matrix; smaller eigenvalues of a cosine matrix are noise."""

RIDGE = 10 * PRECISION
"""Added to the diagonal of a cosine matrix if a method needs it positive definite."""


def dot(first: Iterable[float], second: Iterable[float]) -> float:
    """Return the inner product, over the length of the shorter argument."""
    return sum(map(mul, first, second))


def cosines(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines (k, k) and norms (k,) from gram (k, k).

    A zero gradient has norm 0, and cosine 0 with all gradients, itself included.
    """
    norms = gram.diagonal().clamp(min=0).sqrt()
    norms = torch.where(norms > 1e-15, norms, 0.0)  # squares of smaller norms underflow in float32
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    return gram * torch.outer(inverse, inverse), norms


def solve(matrix: Matrix, right: list[float]) -> list[float] | None:
    """Return the solution (k,) of matrix (k, k) x = right by Cholesky, or None if the matrix is not clearly positive definite."""
    k = len(right)
    lower: Matrix = []
    x: list[float] = []
    for i in range(k):
        row: list[float] = []
        for j in range(i):
            row.append((matrix[i][j] - dot(row, lower[j])) / lower[j][j])
        pivot = matrix[i][i] - dot(row, row)
        # Relative to the diagonal: a smaller pivot is rounding of a dependent row. `not >` is also True for NaN.
        if not pivot > 1e-13 * matrix[i][i]:
            return None
        root = math.sqrt(pivot)
        x.append((right[i] - dot(row, x)) / root)
        lower.append([*row, root])
    for i in reversed(range(k)):
        x[i] = (x[i] - sum(lower[j][i] * x[j] for j in range(i + 1, k))) / lower[i][i]
    return x


def nonnegative_minimum(matrix: Matrix, linear: list[float]) -> list[float]:
    """Return ``argmin of x . matrix x / 2 - linear . x`` over x >= 0 by the active set of Lawson and Hanson (1974, chapter
    23).

    matrix (k, k) is positive semidefinite and linear (k,) is in its range. Exact up to rounding, in about k small solves.
    """
    k = len(linear)
    x = [0.0] * k
    free: list[int] = []
    dependent: set[int] = set()
    scale = [math.sqrt(max(matrix[i][i], 0.0)) for i in range(k)]  # gains are compared as if every diagonal were 1
    tolerance = 1e-12 * max((abs(c) / s for c, s in zip(linear, scale, strict=True) if s > 0), default=0.0)
    # The bound ends a cycle of entering and leaving columns, which rounding can cause.
    for _ in range(10 * k):
        waiting = [i for i in range(k) if scale[i] > 0 and i not in free and i not in dependent]
        gains = [((linear[i] - dot(matrix[i], x)) / scale[i], i) for i in waiting]
        gain, entering = max(gains, default=(0.0, -1))
        if gain <= tolerance:
            break
        free.append(entering)
        while free:
            solution = solve([[matrix[i][j] for j in free] for i in free], [linear[i] for i in free])
            # The entering column is linearly dependent on the free ones, up to rounding.
            if solution is None or (x[entering] == 0 and solution[-1] <= 0):
                free.remove(entering)
                dependent.add(entering)
                x[entering] = 0.0
                break
            # Move towards the solution until the first coordinate reaches 0, and remove that one from the free set.
            shares = {i: x[i] / (x[i] - end) for i, end in zip(free, solution, strict=True) if end <= 0}
            share = min(shares.values(), default=1.0)
            for i, end in zip(free, solution, strict=True):
                x[i] = 0.0 if i in shares and shares[i] <= share else x[i] + share * (end - x[i])
            if not shares:
                # The free set has changed, so these columns may be independent of it now.
                dependent.clear()
                break
            free = [i for i in free if x[i] > 0]
    return x


def shortest(gram: Matrix) -> list[float]:
    """Return the weights (k,) >= 0 with sum 1 of the shortest combination of vectors with these inner products (k, k).

    For any c > 0, the x >= 0 that minimizes ``|sum_i x_i g_i|^2 + c (sum_i x_i - 1)^2`` is a multiple of them.
    """
    least = min(gram[i][i] for i in range(len(gram)))
    if least <= 0:
        is_zero = [gram[i][i] <= 0 for i in range(len(gram))]
        return [flag / sum(is_zero) for flag in is_zero]
    # c is the smallest squared length: a larger constant would hide the shortest vector by rounding.
    x = nonnegative_minimum([[g + least for g in row] for row in gram], [least] * len(gram))
    total = sum(x)
    return [value / total for value in x]
