"""F1, precision and recall of spans (Tjong Kim Sang and De Meulder, CoNLL 2003, arXiv:cs/0306050)."""

from typing import ClassVar

import numpy as np

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.metrics.base import Decomposed, Metric
from mtlcli.metrics.ratio import ratio
from mtlcli.tasks.tag_spans import matches
from mtlcli.tasks.tags import Tags
from mtlcli.tasks.targets import Arrays


class SpanMetric(Metric):
    """A metric of the spans that tags mark."""

    measures = frozenset({"tags"})
    strict: ClassVar[bool] = False

    def __init__(self, task: TaskFacts) -> None:
        super().__init__(task)
        # Before the target is fitted, the scheme can be unknown.
        if not isinstance(task.target, Tags) or not (task.target.marks_spans or task.target.tags is None):
            raise MtlError(f"tasks.{task.name}.metrics: spans are measured, and the tags of this task mark none")
        self.target = task.target


class SpanCounts(SpanMetric, Decomposed):
    """Count the spans of each row that are right, predicted without being gold, and gold without being predicted."""

    def statistics(self, predicted: Arrays, gold: Arrays) -> np.ndarray:
        """Return (true positives, false positives, false negatives) of each row."""
        predicted_spans, gold_spans = self.target.spans(predicted, gold, strict=self.strict)
        right = predicted_spans.row[matches(predicted_spans, gold_spans)]
        positives, predictions, labels = (
            np.bincount(rows, minlength=len(gold)) for rows in (right, predicted_spans.row, gold_spans.row)
        )
        return np.stack([positives, predictions - positives, labels - positives], axis=1).astype(np.float64)


class SpanF1(SpanCounts):
    """Return micro-F1 = 2 TP / (2 TP + FP + FN) over all spans, from 0 to 1, as conlleval does; 0 where there is no span at all.

    A span is right if its words and its type are.
    """

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return F1."""
        return ratio(2 * totals[:, 0], 2 * totals[:, 0] + totals[:, 1] + totals[:, 2])


class StrictSpanF1(SpanF1):
    """Return micro-F1 over spans as seqeval's strict mode reads them: a span begins at B alone, from 0 to 1.

    It differs from span-f1 only for predictions that the scheme does not allow, which heads give with `decode: argmax`.
    """

    strict = True


class SpanPrecision(SpanCounts):
    """Return the share of the predicted spans that are right, from 0 to 1; 0 where none is predicted."""

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return TP / (TP + FP)."""
        return ratio(totals[:, 0], totals[:, 0] + totals[:, 1])


class SpanRecall(SpanCounts):
    """Return the share of the gold spans that are predicted, from 0 to 1; 0 where there is none."""

    def score(self, totals: np.ndarray) -> np.ndarray:
        """Return TP / (TP + FN)."""
        return ratio(totals[:, 0], totals[:, 0] + totals[:, 2])
