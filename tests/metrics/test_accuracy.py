import numpy as np
import pytest

from labels import measured
from mtlcli.facts import TaskFacts
from mtlcli.metrics.accuracy import Accuracy
from mtlcli.tasks.targets import Classes

METRIC = Accuracy(TaskFacts("sst", rows=4, batches=1, target=Classes.named("bad", "good")))


def test_three_right_of_four_is_three_quarters():
    assert measured(METRIC, np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1]), np.ones((1, 4), dtype=int)) == [0.75]


def test_counts_weigh_the_rows_of_each_resample():
    counts = np.array([[2, 0], [1, 1], [0, 2]])
    assert measured(METRIC, np.array([0, 0]), np.array([0, 1]), counts).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("prediction", [0, 1])
def test_a_label_unseen_in_training_is_wrong_whatever_is_predicted(prediction):
    assert measured(METRIC, np.array([prediction, 1]), np.array([-1, 1]), np.ones((1, 2), dtype=int)) == [0.5]
