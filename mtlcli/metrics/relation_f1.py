"""Micro-averaged F1 of relations, without the class that stands for no relation."""

import numpy as np

from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Decomposed
from mtlcli.metrics.ratio import ratio
from mtlcli.tasks.targets import Arrays, Classes


class RelationF1(Decomposed):
    """Compute 2 TP / (predicted + gold) over all classes but the negative one (Zhang et al., EMNLP 2017, section 4.3), from 0 to 1.

    TP are the right rows of other classes; a row counts as predicted or gold where it has another class than the negative one. It is
    0 where there is neither. Without a negative class it is the accuracy.
    """

    measures = frozenset({"classes"})

    def __init__(self, task: TaskFacts) -> None:
        super().__init__(task)
        target = task.target
        name = target.negative if isinstance(target, Classes) else None
        if name is not None and target.labels and name not in target.labels:
            raise MtlError(
                f'tasks.{task.name}.negative: found "{name}"{suggest(name, target.labels)}: expected one of {one_of(target.labels)}'
            )

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right, predicted, gold), each without the negative class."""
        target = self.task.target
        name = target.negative if isinstance(target, Classes) else None
        negative = target.labels.index(name) if target.labels and name in target.labels else None
        # In NumPy, `!= None` is True for every element, so no class is left out.
        guessed, is_gold = predicted["index"] != negative, gold["index"] != negative
        right = (predicted["index"] == gold["index"]) & is_gold
        return np.stack([right, guessed, is_gold], axis=1).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return 2 TP / (predicted + gold)."""
        return ratio(2 * totals[:, 0], totals[:, 1] + totals[:, 2])
