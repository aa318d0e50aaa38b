"""Cosines of task gradients, freed of the noise of batches.

Let g_ib be the gradient of task i on batch b = 1..n, and m_i the mean over b. The inner product <m_i, m_j> of two tasks is
unbiased, because their batches are independent; the squared norm |m_i|^2 is not. An unbiased one is the mean of all <g_ib, g_ic> with
b != c:

    U_i = (|sum_b g_ib|^2 - sum_b |g_ib|^2) / (n (n - 1)),    c_ij = <m_i, m_j> / sqrt(U_i U_j)

Cosines of single batches, or of their means, are pulled toward 0 by the noise. The interval is that of the jackknife over b; a
bootstrap would draw a batch twice, whose squared norm would enter U_i.

Rows of all batches would need k n P floats. Only inner products are needed, so a row is stored as a sketch: each block of
parameters multiplied by random signs and folded to `WIDTH` numbers (the count sketch of Charikar, Chen and Farach-Colton 2002, with
places instead of hashes). Inner products are preserved in expectation, with a standard deviation of about |a| |b| / sqrt(WIDTH),
0.008 of the norms; blocks of up to `WIDTH` parameters are exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtlcli.affinity.prediction import spearman, spearman_brown
from mtlcli.facts import seed_for

WIDTH = 16381
"""Numbers of a block's sketch: a prime, so that the columns of a weight matrix spread over all of them."""
FEWEST_PAIRS = 6
"""Pairs that a rank correlation of two halves needs: with three, a third of all orders are equal or reversed."""
TOTAL, WORDS = "all but word embeddings", "word embeddings"
"""Names of two rows of the table: the word embeddings hold half of a small encoder and nearly no signal."""


@dataclass(frozen=True)
class Cosine:
    """A debiased cosine and the standard error of the jackknife; `value` is None where a task's batches find no direction."""

    value: float | None
    error: float | None = None


@dataclass(frozen=True)
class Direction:
    """Hold how much of a task's gradient repeats from batch to batch.

    Attributes:
        squared_norm: U, unbiased.
        share: U divided by the mean squared norm of a batch's gradient.
        reliability: expected cosine of two independent means of n batches, n s / (1 - s + n s); 0 for a negative share.
    """

    squared_norm: float
    share: float
    reliability: float


def direction(gram: np.ndarray) -> Direction:
    """Return the direction of a task from the inner products (n, n) of its batches, n >= 2."""
    n, trace = len(gram), float(np.trace(gram))
    squared = (float(gram.sum()) - trace) / (n * (n - 1))
    share = squared / (trace / n) if trace > 0 else 0.0
    # At most 1 by the Cauchy-Schwarz inequality, up to rounding; below 0 where noise hides the direction.
    positive = max(0.0, min(1.0, share))
    return Direction(squared, share, n * positive / (1 - positive + n * positive))


def debiased_cosine(first: np.ndarray, second: np.ndarray, both: np.ndarray) -> Cosine:
    """Return the debiased cosine of two tasks.

    Args:
        first, second: inner products (n, n) of the batches of each task.
        both: inner products (n, n) of the first task's batches (rows) with the second's (columns).
    """
    # The jackknife leaves out batch b of both tasks, so both need equally many.
    n = min(len(first), len(second))
    first, second, both = first[:n, :n], second[:n, :n], both[:n, :n]
    if n < 2:
        return Cosine(None)
    norms = direction(first).squared_norm, direction(second).squared_norm
    if min(norms) <= 0:
        return Cosine(None)
    # All n^2 products, because the batches of two tasks share no row. The value can leave [-1, 1].
    value = float(both.sum()) / n**2 / math.sqrt(norms[0] * norms[1])
    return Cosine(value, _jackknife(first, second, both))


def _jackknife(first: np.ndarray, second: np.ndarray, both: np.ndarray) -> float | None:
    """Return the standard error from leaving out one batch of both tasks at a time; None where a task then has no direction."""
    n = len(first)
    # With one batch left out, two have to remain for an unbiased norm.
    if n < 3:
        return None
    left = n - 1
    squares = []
    for gram in (first, second):
        diagonal = np.diagonal(gram)
        # (n,): |sum|^2 without batch b. The Gram matrix is symmetric, so row and column b have the same sum.
        sums = gram.sum() - 2 * gram.sum(1) + diagonal
        squares.append((sums - (diagonal.sum() - diagonal)) / (left * (left - 1)))
    if min(square.min() for square in squares) <= 0:
        return None
    # (n,): the inner product of the means without batch b of either task.
    inner = (both.sum() - both.sum(1) - both.sum(0) + np.diagonal(both)) / left**2
    cosines = inner / np.sqrt(squares[0] * squares[1])
    return float(np.sqrt(left / n * ((cosines - cosines.mean()) ** 2).sum()))


@dataclass(frozen=True)
class BlockCosines:
    """Hold the cosines of one block of parameters (k, k), NaN where there is none, and their standard errors."""

    name: str
    cosines: np.ndarray
    errors: np.ndarray
    directions: list[Direction]


def cosines_of(name: str, rows: Sequence[np.ndarray]) -> BlockCosines:
    """Return the cosines of all pairs of tasks from their rows (n, d), in float64."""
    k = len(rows)
    # float64, because U is a small difference of large sums.
    rows = [task.astype(np.float64) for task in rows]
    grams = [task @ task.T for task in rows]
    cosines, errors = np.full((k, k), np.nan), np.full((k, k), np.nan)
    for i in range(k):
        for j in range(i + 1, k):
            cosine = debiased_cosine(grams[i], grams[j], rows[i] @ rows[j].T)
            if cosine.value is not None:
                cosines[i, j] = cosines[j, i] = cosine.value
            if cosine.error is not None:
                errors[i, j] = errors[j, i] = cosine.error
    return BlockCosines(name, cosines, errors, [direction(gram) for gram in grams])


def pair_reliability(odd: np.ndarray, even: np.ndarray) -> float | None:
    """Return how well the order of the pairs repeats: the rank correlation of the cosines (k, k) of two halves, for all batches.

    Returns:
        None for fewer than `FEWEST_PAIRS` pairs.
    """
    upper = np.triu(np.isfinite(odd) & np.isfinite(even), 1)
    rho = spearman(odd[upper], even[upper]) if upper.sum() >= FEWEST_PAIRS else None
    return None if rho is None else spearman_brown(rho, 1, 1)


class Sketch:
    """Fold rows of gradients (P,) to a few numbers for each block, so that inner products stay what they are on average."""

    def __init__(self, blocks: Sequence[tuple[str, slice]], seed: int, width: int = WIDTH) -> None:
        self.blocks, self.width = list(blocks), width
        self._signs: dict[str, Tensor] = {}
        self.columns: dict[str, slice] = {}
        end = 0
        for name, columns in self.blocks:
            size = columns.stop - columns.start
            if size > width:
                # On the CPU, so that all devices have the same signs; by name, so that other blocks do not change them.
                generator = torch.Generator().manual_seed(seed_for(seed, "sketch", name))
                # int8, because there is one sign for each parameter.
                self._signs[name] = (2 * torch.randint(2, (size,), generator=generator, dtype=torch.int8) - 1).to(
                    torch.int8
                )
            start, end = end, end + min(size, width)
            self.columns[name] = slice(start, end)
        self.size = end

    def fold(self, row: Tensor) -> np.ndarray:
        """Return the sketch (d,) float32 of a row (P,)."""
        parts = []
        for name, columns in self.blocks:
            part = row[columns]
            if name in self._signs:
                part = part * self._signs[name].to(part.device)
                # Parameter p is added to place p modulo `width`; the last, incomplete row is added separately.
                full = len(part) // self.width * self.width
                folded = part[:full].view(-1, self.width).sum(0)
                folded[: len(part) - full] += part[full:]
                part = folded
            parts.append(part)
        sketch: np.ndarray = torch.cat(parts).float().cpu().numpy()
        return sketch
