"""Expected calibration error (Guo, Pleiss, Sun and Weinberger, ICML 2017, arXiv:1706.04599, equation 3)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.targets import Arrays

BINS = 15
"""Bins of equal width, as in the paper."""


class CalibrationError(Decomposed):
    """Average |accuracy - confidence| over bins of confidence, weighted by their rows, from 0 (best) to 1.

    Confidence is the probability of the predicted class; a prediction without probabilities counts as certain.
    """

    measures = frozenset({"classes", "ranks"})
    higher_is_better = False
    bounds = (1.0, 0.0)
    reads_probabilities = True

    def __init__(
        self,
        task: TaskFacts,
        *,
        bins: Annotated[int, Field(ge=1, le=1000, description="number of bins of equal width")] = BINS,
    ) -> None:
        super().__init__(task)
        self.bins = bins

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right - confidence) in the column of the row's bin, and 1 in the last column."""
        confidence, right = confidences(predicted, gold)
        # A column for each bin, because the absolute value is taken of the sum over a bin, not of single rows.
        statistics = np.zeros((len(gold), self.bins + 1))
        statistics[np.arange(len(gold)), bins_of(confidence, self.bins)] = right - confidence
        statistics[:, self.bins] = 1
        return statistics

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return the sum of the bins' differences / rows."""
        return np.abs(totals[:, : self.bins]).sum(axis=1) / totals[:, self.bins]


@dataclass(frozen=True)
class Reliability:
    """Hold the bins of a reliability diagram (Guo et al. 2017, section 2), each array (bins,).

    Attributes:
        rows: number of rows, or the sum of their weights.
        confidence: their mean confidence; NaN for an empty bin.
        accuracy: share of them that is right; NaN for an empty bin.
    """

    rows: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, predicted: Arrays, gold: Arrays, bins: int = BINS, weights: np.ndarray | None = None) -> "Reliability":
        """Return the bins of n rows, each counted by its weight (n,) if there are weights."""
        confidence, right = confidences(predicted, gold)
        weights = np.ones(len(gold)) if weights is None else weights
        places = bins_of(confidence, bins)
        rows, confidences_in, right_in = (
            np.bincount(places, weights=weights * values, minlength=bins)
            for values in (np.ones(len(gold)), confidence, right)
        )
        nothing = np.full(bins, np.nan)
        return cls(
            rows,
            # The division writes to `out`, so each result needs an array of its own.
            np.divide(confidences_in, rows, out=nothing.copy(), where=rows > 0),
            np.divide(right_in, rows, out=nothing.copy(), where=rows > 0),
        )


def confidences(predicted: Arrays, gold: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each row's predicted class (n,) float64, and whether it is right (n,) bool."""
    confidence = np.ones(len(gold))
    if "probabilities" in predicted:
        confidence = predicted["probabilities"][np.arange(len(gold)), predicted["index"]].astype(np.float64)
    return confidence, predicted["index"] == gold["index"]


def bins_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each confidence (n,); bins are open below and closed above, so that 1 is in the last one."""
    # Clipped for a confidence of 0, which belongs to the first bin, and for one that rounding puts above 1.
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
