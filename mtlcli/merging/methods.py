"""Formulas of merging, for one tensor of several runs.

Task vectors are the weights of a run minus those of the encoder that all runs started from. Everything is computed in float64, so
that one run alone is merged to exactly its own float32 weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

FISHER_FLOOR = 1e-6
"""Smallest Fisher information, as a share of the mean over a run's parameters: Matena and Raffel's floor, which is absolute there."""


def average(thetas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_i c_i theta_i / sum_i c_i (Wortsman et al. 2022, arXiv:2203.05482, with weights).

    Args:
        thetas: the same tensor of each run, of any shape.
        weights: c, not negative, with a positive sum.
    """
    total = sum(weights)
    # The weights are divided, and not the sum: a single run has a weight of exactly 1, and so its own values.
    return sum_of(thetas, [weight / total for weight in weights])


def sum_of(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted sum of tensors of one shape in float64."""
    result = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        result.add_(tensor.double(), alpha=weight)
    return result


def task_arithmetic(start: Tensor, vectors: Sequence[Tensor], weights: Sequence[float], scaling: float) -> Tensor:
    """Return theta_0 + lambda sum_i c_i tau_i (Ilharco et al. 2023, arXiv:2212.04089).

    A negative weight subtracts what a run has learned, the task negation of the paper.
    """
    return start.double() + scaling * sum_of(vectors, weights)


def trim_threshold(sizes: Tensor, density: float) -> float:
    """Return the size from which values of a task vector are kept: the k-th largest of `sizes` (d,), k = density * d.

    Values of exactly that size are all kept, so that more than k may be.
    """
    kept = min(max(round(density * len(sizes)), 1), len(sizes))
    # `kthvalue` counts from the smallest. `torch.quantile` rejects tensors of more than 16 million values.
    return float(sizes.kthvalue(len(sizes) - kept + 1).values)


def trim(vector: Tensor, threshold: float) -> Tensor:
    """Return a task vector with 0 in place of all values that are smaller than the threshold (TIES: trim)."""
    # In float32, like the threshold, or rounding could drop the value that equals it.
    return torch.where(vector.float().abs() >= threshold, vector, torch.zeros_like(vector))


def elected(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the sign of the weighted sum of trimmed task vectors, 0 where it is exactly 0 (TIES: elect)."""
    return sum_of(vectors, weights).sign()


def ties(start: Tensor, vectors: Sequence[Tensor], weights: Sequence[float], scaling: float, majority: float) -> Tensor:
    """Return theta_0 + lambda m, m being the mean of the values that have the elected sign (Yadav et al. 2023, arXiv:2306.01708).

    The paper has no weights. A weight here counts a run as that many copies of it, in the election and in the mean.

    Args:
        vectors: trimmed task vectors.
        weights: c, not negative.
        majority: the sign where the sum is exactly 0: the most frequent one of all parameters, as in the authors' code.
    """
    signs = elected(vectors, weights)
    signs = torch.where(signs == 0, torch.full_like(signs, majority), signs)
    total, count = torch.zeros_like(signs), torch.zeros_like(signs)
    for vector, weight in zip(vectors, weights, strict=True):
        # Trimmed values are 0 and agree with neither sign.
        agreeing = vector.double() * signs > 0
        total += torch.where(agreeing, vector.double(), 0.0) * weight
        count += agreeing * weight
    # The inner `where` avoids 0 / 0 where no run kept a value.
    mean = torch.where(count > 0, total / count.where(count > 0, torch.ones_like(count)), 0.0)
    return start.double() + scaling * mean


def drop(vector: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Return a task vector with a random share of its values dropped, and the others divided by 1 - rate.

    DARE: Yu et al. 2024, arXiv:2311.03099.
    """
    if rate == 0:
        return vector
    kept = torch.rand(vector.shape, generator=generator) >= rate
    return torch.where(kept, vector / (1 - rate), torch.zeros_like(vector))


def fisher(thetas: Sequence[Tensor], information: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_i c_i F_i theta_i / sum_i c_i F_i (Matena and Raffel 2022, arXiv:2111.09832).

    Args:
        information: the diagonal of each run's Fisher information, in the shape of the tensor. Values below FISHER_FLOOR count as
            that, so that a parameter of which no run has information is averaged.
        weights: c, not negative, with a positive sum.
    """
    factors = [
        value.double().clamp(min=FISHER_FLOOR) * weight for value, weight in zip(information, weights, strict=True)
    ]
    total = sum_of(factors, [1.0] * len(factors))
    # Shares first: one run has a share of exactly 1, and so its own weights.
    shares = [factor / total for factor in factors]
    return sum_of([theta.double() * share for theta, share in zip(thetas, shares, strict=True)], [1.0] * len(thetas))
