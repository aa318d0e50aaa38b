"""Accuracy of tags: the share of words whose tag was predicted."""

import numpy as np

from mtlcli.metrics.base import Decomposed
from mtlcli.tasks.tags import UNKNOWN
from mtlcli.tasks.targets import Arrays


class TagAccuracy(Decomposed):
    """Divide the words with the right tag by all words that have one, from 0 to 1; 0 where no word has one.

    Where tags mark spans, most words are outside, and this is near 1 for every model: use span-f1.
    """

    measures = frozenset({"tags"})

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (right words, words with a tag) of each row."""
        if gold.starts is None:
            raise ValueError("tags of no words")
        known = gold["tag"] != UNKNOWN
        both = np.stack([known & (predicted["tag"] == gold["tag"]), known], axis=1).astype(np.int64)
        # Differences of running counts, because reduceat gives a row without words the first entry of the next row.
        before = np.concatenate([np.zeros((1, 2), dtype=np.int64), both.cumsum(axis=0)])
        return np.diff(before[gold.starts], axis=0).astype(np.float64)

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return right / words."""
        return np.divide(totals[:, 0], totals[:, 1], out=np.zeros(len(totals)), where=totals[:, 1] > 0)
