"""Thresholds of labels, each of which holds or does not, by the best F1 on dev rows."""

import numpy as np

HALF = 0.5
"""Threshold of a label for which dev rows do not settle another one."""
FEWEST = 5
"""Positive dev rows that a label needs for a threshold of its own."""


def best_threshold(scores: np.ndarray, holds: np.ndarray) -> float:
    """Return the threshold t with the best F1 of `score >= t` on n rows.

    It lies halfway between the lowest score that it accepts and the next lower one (0 below the lowest of all), so that equal
    scores are on the same side. Of several such scores with the same F1, the one nearest to 0.5 counts; of two equally near, the
    higher one.

    Args:
        scores: probabilities that the label holds (n,).
        holds: whether it does (n,) bool; one row or more.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order].astype(np.float64)
    last = np.flatnonzero(np.append(np.diff(falling) != 0, True))  # of each group of equal scores
    positives = holds[order].cumsum()[last]
    # F1 = 2 TP / (accepted + positive rows), where a threshold just below group g accepts the rows up to last[g].
    f1 = 2 * positives / (last + 1 + holds.sum())
    distinct = falling[last]
    # F1 is a fraction of integers: equal fractions give equal numbers.
    ties = np.flatnonzero(f1 == f1.max())
    best = ties[np.abs(distinct[ties] - HALF).argmin()]
    lower = distinct[best + 1] if best + 1 < len(distinct) else 0.0
    return float((distinct[best] + lower) / 2)


def tuned_thresholds(
    probabilities: np.ndarray, holds: np.ndarray, known: np.ndarray, fewest: int = FEWEST
) -> np.ndarray:
    """Return the threshold of each label (C,) float64 by `best_threshold`, HALF for one with fewer positive rows than `fewest`.

    Args:
        probabilities: (n, C).
        holds: (n, C) bool.
        known: (n, C) bool, whether the row says anything of the label; other entries do not count.
    """
    thresholds = np.full(probabilities.shape[1], HALF)
    for label in range(len(thresholds)):
        rows = known[:, label]
        if holds[rows, label].sum() >= fewest:
            thresholds[label] = best_threshold(probabilities[rows, label], holds[rows, label])
    return thresholds
