"""Exact match, and which metrics a task is measured by."""

import numpy as np
import pytest

from labels import measured
from mtlcli.errors import MtlError
from mtlcli.evaluation.measure import make_metrics
from mtlcli.facts import TaskFacts
from mtlcli.metrics.exact_match import ExactMatch
from mtlcli.tasks.targets import Score

SCORES = TaskFacts("s", 10, 1, Score(0.0, 5.0, 2.0, 1.5))


def test_scores_match_where_they_round_to_the_same_number():
    predictions = np.array([2.4, 2.5, 3.49, 0.2])
    targets = np.array([2.0, 2.0, 3.0, 1.0])  # 2 = 2, 3 != 2, 3 = 3, 0 != 1
    counts = np.array([[1, 1, 1, 1], [3, 0, 0, 1]])
    assert measured(ExactMatch(SCORES), predictions, targets, counts).tolist() == [0.5, 0.75]


def test_halves_round_up_always():
    halves = np.array([0.5, 1.5, 2.5])
    assert measured(ExactMatch(SCORES), halves, np.array([1.0, 2.0, 3.0]), np.ones((1, 3))).tolist() == [1.0]


def test_a_metric_of_other_predictions_is_refused():
    with pytest.raises(
        MtlError,
        match='"accuracy" measures choice, classes, distribution, ranks, and this task predicts a score from 0 to 5',
    ):
        make_metrics(("pearson", "accuracy"), SCORES, "tasks.s.metrics")
