"""F1 of the distinct names that are found in a corpus (Derczynski et al., WNUT 2017, W17-4418)."""

from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.ratio import ratio
from mtlcli.metrics.span_f1 import SpanMetric
from mtlcli.tasks.tag_spans import Spans
from mtlcli.tasks.targets import Arrays


@dataclass(frozen=True)
class Surfaces:
    """Which rows have which names: row and number of the name of each predicted and each gold span, and the number of names."""

    predicted: tuple[np.ndarray, np.ndarray]
    gold: tuple[np.ndarray, np.ndarray]
    names: int

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the F1 of each resample (b,). A name of a row that is drawn twice is there once; the weights of rows do not count."""
        values = np.zeros(len(counts))
        for place, count in enumerate(counts):
            predicted, gold = (self._present(spans, count) for spans in (self.predicted, self.gold))
            right = np.count_nonzero(predicted & gold)
            values[place] = ratio(np.array(2.0 * right), np.array(float(predicted.sum() + gold.sum())))
        return values

    def _present(self, spans: tuple[np.ndarray, np.ndarray], count: np.ndarray) -> np.ndarray:
        """Return which names the drawn rows have (names,) bool."""
        rows, names = spans
        present = np.zeros(self.names, dtype=bool)
        present[names[count[rows] > 0]] = True
        return present


class SurfaceF1(SpanMetric):
    """Return F1 over the sets of distinct predicted and gold names, from 0 to 1; 0 where both are empty.

    A name is the words of a span, with their case, and its type. However often it occurs, it counts once, and it is found if it is
    predicted anywhere in the corpus, so that rare names weigh as much as frequent ones.
    """

    def bind(self, predicted: Arrays, gold: Arrays) -> Surfaces:
        """Number the names of both sides."""
        # Both sides share the numbers, so that equal names have the same one.
        numbers: dict[tuple[int, ...], int] = {}
        words = gold["word"].tolist()

        def named(spans: Spans) -> tuple[np.ndarray, np.ndarray]:
            places = zip(spans.start.tolist(), spans.length.tolist(), spans.type.tolist(), strict=True)
            names = [
                numbers.setdefault((kind, *words[start : start + length]), len(numbers))
                for start, length, kind in places
            ]
            return spans.row, np.array(names, dtype=np.int64)

        sides = [named(spans) for spans in self.target.spans(predicted, gold)]
        return Surfaces(sides[0], sides[1], len(numbers))
