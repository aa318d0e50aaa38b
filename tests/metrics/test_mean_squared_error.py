import numpy as np

from labels import measured
from mtlcli.facts import TaskFacts
from mtlcli.metrics.errors import MeanSquaredError
from mtlcli.tasks.targets import Score

METRIC = MeanSquaredError(TaskFacts("sts", rows=3, batches=1, target=Score(0.0, 5.0, 2.5, 1.0)))


def test_mean_squared_error_of_three_rows_by_hand():
    predictions, targets = np.array([1.0, 2.0, 5.0]), np.array([1.0, 4.0, 2.0])
    assert measured(METRIC, predictions, targets, np.array([[1, 1, 1], [2, 1, 0]])).tolist() == [13 / 3, 4 / 3]


def test_less_is_better():
    assert not METRIC.higher_is_better
    assert METRIC.bounds == (np.inf, 0.0)
