"""Accuracy of one class against all others together."""

import numpy as np

from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Decomposed
from mtlcli.metrics.binary import Positive, positive_class
from mtlcli.tasks.targets import Arrays


class BinaryAccuracy(Decomposed):
    """Divide the rows that are rightly called positive or not by all rows, from 0 to 1.

    A row is called positive if the probability of the positive class is above 1/2, so those of all other classes are added up. With
    `positive: entailment`, a model of three classes is measured on labels that say only `entailment` or `not_entailment`.
    """

    measures = frozenset({"classes"})
    is_proportion = True
    reads_probabilities = True

    def __init__(self, task: TaskFacts, *, positive: Positive = None) -> None:
        super().__init__(task)
        self.positive = positive_class(task, positive)

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right, 1). A prediction without probabilities counts as certain."""
        if "probabilities" in predicted:
            is_called = predicted["probabilities"][:, self.positive] > 0.5
        else:
            is_called = predicted["index"] == self.positive
        right = is_called == (gold["index"] == self.positive)
        return np.stack([right, np.ones_like(right)], axis=1).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return right / rows."""
        return totals[:, 0] / totals[:, 1]
