"""Label statistics of a task: entropy and kurtosis of its labels (Martínez Alonso and Plank, EACL 2017, E17-1005).

The paper found that auxiliary tasks with compact, more uniform label distributions helped. The kurtosis here is that of the
class shares, which has a meaning for classes without an order; whether the paper computes the same one could not be checked.
"""

from dataclasses import dataclass

import numpy as np

from mtlcli.tasks.targets import Arrays, Target

SMALLEST = 1e-12
"""Variance of shares or scores below which the kurtosis is 0/0."""


@dataclass(frozen=True)
class LabelStatistics:
    """Describe the labels of a task's training rows.

    Attributes:
        rows: training rows with a known label.
        classes: number of classes; None for scores and other targets without classes.
        entropy: of the class shares, in bits; None without classes.
        normalized_entropy: the same divided by log2 of the number of classes, from 0 to 1.
        share_kurtosis: kurtosis of the class shares around 1 / C; None for up to two classes, where it is always 1, and for equal
            shares, where it is 0 / 0.
        score_kurtosis: excess kurtosis of the scores, 0 for a normal distribution; None for other targets.
    """

    rows: int
    classes: int | None = None
    entropy: float | None = None
    normalized_entropy: float | None = None
    share_kurtosis: float | None = None
    score_kurtosis: float | None = None


def label_statistics(target: Target, gold: Arrays) -> LabelStatistics:
    """Return the statistics of labels as a task reads them: of rows, or of words for tags."""
    rows = int((target.units(gold) > 0).sum())
    counts = target.class_counts(gold)
    numbers = target.as_numbers(gold)
    if counts is None and numbers is not None:
        # NaN is an unknown score.
        return LabelStatistics(rows, score_kurtosis=excess_kurtosis(numbers[np.isfinite(numbers)]))
    if counts is None or not counts.sum():
        return LabelStatistics(rows)
    entropy = entropy_of(counts / counts.sum())
    return LabelStatistics(
        rows, len(counts), entropy, entropy / np.log2(len(counts)) if len(counts) > 1 else None, share_kurtosis(counts)
    )


def entropy_of(shares: np.ndarray) -> float:
    """Return the entropy of shares (C,) that sum to 1, in bits."""
    positive = shares[shares > 0]
    # A single class gives -0.0.
    return max(0.0, float(-(positive * np.log2(positive)).sum()))


def share_kurtosis(counts: np.ndarray) -> float | None:
    """Return ``mean((p - 1/C)^4) / mean((p - 1/C)^2)^2`` for the shares p of counts (C,).

    Returns:
        None for up to two classes and for equal shares.
    """
    if len(counts) <= 2:
        return None
    deviations = counts / counts.sum() - 1 / len(counts)
    variance = float((deviations**2).mean())
    return None if variance < SMALLEST else float((deviations**4).mean()) / variance**2


def excess_kurtosis(values: np.ndarray) -> float | None:
    """Return the excess kurtosis of values (n,); None where all are equal."""
    if not len(values):
        return None
    deviations = values - values.mean()
    variance = float((deviations**2).mean())
    return None if variance < SMALLEST else float((deviations**4).mean()) / variance**2 - 3
