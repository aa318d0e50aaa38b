import numpy as np

from mtlcli.templates.metrics import Example
from mtlcli.testing import SCORES, check_metric


def test_contract() -> None:
    check_metric(Example, SCORES)  # GRADES for a metric of classes


def test_errors_of_one_and_three_are_two_in_the_mean() -> None:
    predicted, gold = SCORES.target.pack([1.0, 5.0]), SCORES.target.pack([2.0, 2.0])
    assert Example(SCORES).bind(predicted, gold).values(np.array([[1, 1], [2, 0]])).tolist() == [2.0, 1.0]
