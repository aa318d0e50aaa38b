"""Mean average precision over labels."""

from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.ratio import ratio
from mtlcli.tasks.label_sets import UNKNOWN
from mtlcli.tasks.targets import Arrays


class MeanAveragePrecision(Metric):
    """Average sum_j (R_j - R_{j-1}) P_j over the labels that hold in some row of the resample, from 0 to 1; 0 where none does.

    P_j and R_j are precision and recall of a label down to its j-th distinct probability, as in scikit-learn's
    `average_precision_score`, which gives 0 to a label that never holds; here it is left out. Thresholds do not matter. A
    prediction without probabilities counts as certain.
    """

    measures = frozenset({"label-set"})
    reads_probabilities = True

    def bind(self, predicted: Arrays, gold: Arrays) -> "MeanOfRankings":
        """Sort the rows by the probability of each label that holds in some row."""
        scores = predicted["probabilities"] if "probabilities" in predicted else predicted["set"]
        sets = gold["set"]
        return MeanOfRankings(
            tuple(
                LabelRanking.of(scores[:, label], sets[:, label])
                for label in np.flatnonzero((sets == 1).any(0)).tolist()
            )
        )


@dataclass(frozen=True)
class LabelRanking:
    """The rows that say something of a label, by falling probability.

    Attributes:
        order: these rows (k,).
        positive: the rows in which the label holds (p,), in the same order.
        starts: where each group of positive rows with equal probabilities begins among them (g,).
        ends: the last row in `order` with the probability of each group (g,).
    """

    order: np.ndarray
    positive: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, entries: np.ndarray) -> "LabelRanking":
        """Rank rows by the scores (n,) of a label, with its entries (n,) of the gold sets."""
        known = np.flatnonzero(entries != UNKNOWN)
        # Converted first, because the negative of uint8 decisions wraps around: -1 is 255.
        order = known[np.argsort(-scores[known].astype(np.float64), kind="stable")]
        ordered = scores[order]
        last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
        is_positive = entries[order] == 1
        # Recall changes at groups with a positive row alone, so the other groups are not kept.
        ends = last[np.searchsorted(last, np.flatnonzero(is_positive))]
        distinct, starts = np.unique(ends, return_index=True)
        return cls(order, order[is_positive], starts, distinct)

    def values(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return average precision of each resample (b,), and whether the label holds in it (b,) bool."""
        of_groups = np.add.reduceat(counts.take(self.positive, axis=1), self.starts, axis=1).astype(np.float64)
        true = of_groups.cumsum(axis=1)
        # (b, g), how many rows of the resample have the probability of the group or a higher one.
        accepted = counts.take(self.order, axis=1).cumsum(axis=1).take(self.ends, axis=1)
        precision = np.divide(true, accepted, out=np.zeros_like(true), where=accepted > 0)
        return ratio((of_groups * precision).sum(axis=1), true[:, -1]).clip(0, 1), true[:, -1] > 0


@dataclass(frozen=True)
class MeanOfRankings:
    """Mean average precision of certain predictions."""

    rankings: tuple[LabelRanking, ...]

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the mean of each resample (b,)."""
        total, labels = np.zeros(len(counts)), np.zeros(len(counts))
        for ranking in self.rankings:
            precision, holds = ranking.values(counts)
            total += precision
            labels += holds
        return ratio(total, labels)
