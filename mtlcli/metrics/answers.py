"""Exact match and F1 of answers to questions (Rajpurkar et al., EMNLP 2016, arXiv:1606.05250, section 6.1)."""

from collections.abc import Callable

import numpy as np

from mtlcli.metrics.base import Metric, Resampled, Statistics
from mtlcli.tasks.answer_text import exact_match, word_f1
from mtlcli.tasks.answers import Answers, Row, row_of
from mtlcli.tasks.targets import Arrays


class AnswerMetric(Metric):
    """A mean over questions of the best agreement with one of the question's answers; no answer is the empty text."""

    measures = frozenset({"answers"})
    compare: Callable[[str, str], float]

    def bind(self, predicted: Arrays, gold: Arrays) -> Resampled:
        """Compare the texts once."""
        target = self.task.target
        if not isinstance(target, Answers):
            raise TypeError("answers of another target")
        answered = target.is_answered(predicted).tolist()
        values = np.zeros(len(gold))
        for row, is_answered in enumerate(answered):
            start, end = (int(predicted[name][row]) if is_answered else 0 for name in ("start", "end"))
            values[row] = self._best(row_of(gold, row), start, end)
        return Statistics(np.stack([values, np.ones_like(values)], axis=1), lambda sums: sums[:, 0] / sums[:, 1])

    def _best(self, row: Row, start: int, end: int) -> float:
        # An unknown answer counts as none. Splits for evaluation have no such rows.
        answers = [row.context[first:last] for first, last in row.answers or ()] or [""]
        return max(type(self).compare(row.context[start:end], answer) for answer in answers)


class AnswerExactMatch(AnswerMetric):
    """Return the share of the questions whose answer equals one of the question's answers, once both are normalized, from 0 to 1."""

    is_proportion = True
    compare = staticmethod(exact_match)


class AnswerF1(AnswerMetric):
    """Return the mean over questions of the F1 of the answer's words, the best over the question's answers, from 0 to 1."""

    compare = staticmethod(word_f1)
