"""Metrics of all classes together: macro-F1, weighted F1 and Matthews' correlation coefficient."""

from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Metric
from mtlcli.metrics.class_counts import ClassCounts
from mtlcli.metrics.ratio import ratio
from mtlcli.tasks.class_matches import ClassMatches, pairs
from mtlcli.tasks.label_sets import UNKNOWN
from mtlcli.tasks.targets import Arrays


class MacroF1(Metric):
    """Average F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in the resample, from 0 to 1.

    A class occurs if it is the label or the prediction of a row in the resample, as in scikit-learn's
    `f1_score(average="macro")`; other classes are left out of the mean and do not count as 0. A label that training never saw
    (-1) is a class of its own with F1 0, and in the mean wherever it occurs. Of sets of labels, each label is a class of its own;
    without any in the resample it is 0.
    """

    measures = frozenset({"classes", "ranks", "label-set"})

    def bind(self, predicted: Arrays, gold: Arrays) -> "MeanOfClasses":
        """Sort the rows by label and by prediction."""
        return MeanOfClasses((_counts_of_sets if "set" in gold else counts_of)(predicted, gold))


class WeightedF1(Metric):
    """Average the classes' F1, each weighted by its share of the labels in the resample, from 0 to 1.

    This is scikit-learn's `f1_score(average="weighted")`. A label that training never saw (-1) is a class with F1 0.
    """

    measures = frozenset({"classes", "ranks"})

    def bind(self, predicted: Arrays, gold: Arrays) -> "WeightedMeanOfClasses":
        """Sort the rows by label and by prediction."""
        return WeightedMeanOfClasses(counts_of(predicted, gold))


class Matthews(Metric):
    """Compute Matthews' correlation coefficient of several classes (Gorodkin, Computational Biology and Chemistry 2004), from -1 to 1.

    With c right rows of s, p_k predictions and t_k labels of class k it is
    `(c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))`, and 0 where all predictions or all labels are equal.
    """

    measures = frozenset({"classes", "ranks"})
    bounds = (-1.0, 1.0)

    def bind(self, predicted: Arrays, gold: Arrays) -> "ClassCorrelation":
        """Sort the rows by label and by prediction."""
        return ClassCorrelation(counts_of(predicted, gold))


def counts_of(predicted: Arrays, gold: Arrays) -> ClassCounts:
    """Return the counts of every class that occurs; a label that training never saw is one of them."""
    occurring, indices = np.unique(np.stack((gold["index"], predicted["index"])), return_inverse=True)
    labels, predictions = indices.reshape(2, -1)
    names = tuple(map(str, occurring.tolist()))
    # Unlike in the table of single classes, an unseen label (-1) counts as a class.
    everything = np.ones(len(labels), dtype=bool)
    return ClassCounts.of(ClassMatches.of_items(names, np.arange(len(labels)), labels, predictions, everything))


def _counts_of_sets(predicted: Arrays, gold: Arrays) -> ClassCounts:
    """Return the counts of every label in the rows that say something of it, and of labels that training never saw as one more."""
    sets = gold["set"]
    # A prediction about an unknown entry is neither right nor wrong.
    predicted_labels, holds = (predicted["set"] == 1) & (sets != UNKNOWN), sets == 1
    unseen = np.flatnonzero(gold["unseen"] > 0)
    more = pairs(unseen, np.full(len(unseen), sets.shape[1]))
    parts = [np.argwhere(holds), np.argwhere(predicted_labels), np.argwhere(predicted_labels & holds)]
    names = tuple(map(str, range(sets.shape[1] + 1)))
    return ClassCounts.of(ClassMatches(names, np.concatenate([parts[0], more]), parts[1], parts[2]))


@dataclass(frozen=True)
class MeanOfClasses:
    """Macro-F1 of certain predictions."""

    classes: ClassCounts

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return macro-F1 of each resample (b,)."""
        right, labels, predictions = self.classes.sums(counts)
        mentions = labels + predictions
        # A resample of label sets may hold no label at all.
        return ratio(2 * right, mentions).sum(axis=1) / np.maximum((mentions > 0).sum(axis=1), 1)


@dataclass(frozen=True)
class WeightedMeanOfClasses:
    """Weighted F1 of certain predictions."""

    classes: ClassCounts

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return weighted F1 of each resample (b,)."""
        right, labels, predictions = self.classes.sums(counts)
        return (ratio(2 * right, labels + predictions) * labels).sum(axis=1) / labels.sum(axis=1)


@dataclass(frozen=True)
class ClassCorrelation:
    """Matthews' correlation coefficient of certain predictions."""

    classes: ClassCounts

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the coefficient of each resample (b,)."""
        hits, labels, predictions = (sums.astype(np.float64) for sums in self.classes.sums(counts))
        rows, right = labels.sum(axis=1), hits.sum(axis=1)
        covariance = right * rows - (predictions * labels).sum(axis=1)
        # Of one class alone, fractions leave a rounding error instead of 0.
        spreads = [rows**2 - (sums**2).sum(axis=1) for sums in (predictions, labels)]
        varied = np.minimum(*spreads) > 1e-12 * rows**2
        root = np.sqrt(np.where(varied, spreads[0] * spreads[1], 1.0))
        return np.where(varied, covariance / root, 0.0).clip(-1, 1)
