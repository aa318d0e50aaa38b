"""Metrics of sets of labels: micro-F1 and subset accuracy (Tsoumakas and Katakis, Int. J. Data Warehousing and Mining 2007)."""

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.metrics.ratio import ratio
from mtlcli.tasks.label_sets import UNKNOWN
from mtlcli.tasks.targets import Arrays
from mtlcli.tasks.thresholds import HALF


class MicroF1(Decomposed):
    """Compute F1 = 2 TP / (2 TP + FP + FN) over all labels of all rows, from 0 to 1; 0 where no label is predicted or holds.

    A label that training never saw counts as missed. Labels of which a row says nothing do not count.
    """

    measures = frozenset({"label-set"})

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (true positives, false positives, false negatives) of each row."""
        return counts_of_rows(predicted["set"] == 1, gold)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return F1."""
        return ratio(2 * totals[:, 0], 2 * totals[:, 0] + totals[:, 1] + totals[:, 2])


class MicroF1AtHalf(MicroF1):
    """Compute micro-F1 of the labels with a probability of 0.5 or more, from 0 to 1, whatever the thresholds of the run.

    On the dev rows on which thresholds are tuned, micro-f1 is optimistic, and this is not.
    """

    reads_probabilities = True

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (true positives, false positives, false negatives) of each row."""
        if "probabilities" not in predicted:
            return super().statistics(predicted, gold)
        return counts_of_rows(predicted["probabilities"] >= HALF, gold)


class SubsetAccuracy(Decomposed):
    """Divide the rows whose labels are all right by the rows that say something of a label, from 0 to 1."""

    measures = frozenset({"label-set"})

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right, counts)."""
        sets = gold["set"]
        # An unknown entry agrees with every prediction.
        right = ((predicted["set"] == sets) | (sets == UNKNOWN)).all(1) & (gold["unseen"] == 0)
        counts = (sets != UNKNOWN).any(1)
        return np.stack([right & counts, counts], axis=1).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return right / rows."""
        return ratio(totals[:, 0], totals[:, 1])


def counts_of_rows(chosen: np.ndarray, gold: Arrays) -> np.ndarray:
    """Return true positives, false positives and false negatives (n, 3) float64 of the labels that are chosen (n, C) bool."""
    sets = gold["set"]
    holds = sets == 1
    true = (chosen & holds).sum(1)
    # Not `~holds`, which would count predictions about unknown entries.
    false = (chosen & (sets == 0)).sum(1)
    return np.stack([true, false, holds.sum(1) - true + gold["unseen"]], axis=1).astype(np.float64)
