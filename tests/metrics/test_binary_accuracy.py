"""Accuracy of one class against all others together."""

import numpy as np
import pytest

from mtlcli.facts import TaskFacts
from mtlcli.metrics.accuracy import Accuracy
from mtlcli.metrics.binary_accuracy import BinaryAccuracy
from mtlcli.tasks.nli import NLI
from mtlcli.tasks.targets import Ragged

FACTS = TaskFacts("nli", rows=4, batches=1, target=NLI.target)  # entailment, neutral, contradiction
GOLD = Ragged({"index": np.array([0, 1, 1, 2])})


def test_probabilities_of_the_other_classes_are_added_up():
    shares = np.array([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.55, 0.35, 0.1], [0.2, 0.7, 0.1]])
    predicted = Ragged({"index": shares.argmax(1), "probabilities": shares})
    # Entailment is the most probable class of row 2, with .4 against .6 of the others together; row 3 is wrong, and neutral in row 4
    # is as right as contradiction.
    assert BinaryAccuracy(FACTS, positive="entailment").value(predicted, GOLD) == 3 / 4
    assert Accuracy(FACTS).value(predicted, GOLD) == 1 / 4


def test_a_prediction_without_probabilities_counts_as_certain():
    predicted = Ragged({"index": np.array([0, 2, 0, 1])})
    assert BinaryAccuracy(FACTS, positive="entailment").value(predicted, GOLD) == pytest.approx(3 / 4)


def test_the_positive_class_must_be_stated_for_three():
    from mtlcli.errors import MtlError

    with pytest.raises(MtlError, match="positive"):
        BinaryAccuracy(FACTS)
