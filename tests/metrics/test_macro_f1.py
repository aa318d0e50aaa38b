import numpy as np
import pytest

from labels import measured
from mtlcli.facts import TaskFacts
from mtlcli.metrics.class_metrics import MacroF1
from mtlcli.tasks.targets import Classes

METRIC = MacroF1(TaskFacts("topics", rows=4, batches=1, target=Classes.named("a", "b", "c")))


def macro_f1(predictions, targets):
    return measured(METRIC, np.array(predictions), np.array(targets), np.ones((1, len(targets)), dtype=int))[0]


def test_macro_f1_of_two_classes_by_hand():
    # class 0: TP 2, FP 0, FN 1 -> 4/5; class 1: TP 1, FP 1, FN 0 -> 2/3
    assert macro_f1([0, 0, 1, 1], [0, 0, 0, 1]) == pytest.approx((4 / 5 + 2 / 3) / 2, abs=1e-15)


def test_a_class_in_neither_targets_nor_predictions_is_left_out_of_the_mean():
    assert macro_f1([0, 2], [0, 2]) == 1.0


def test_a_class_that_is_only_predicted_counts_as_zero():
    # class 0: TP 1, FN 1 -> 2/3; class 1: FP 1 -> 0
    assert macro_f1([0, 1], [0, 0]) == pytest.approx(1 / 3, abs=1e-15)


def test_a_class_that_is_never_predicted_counts_as_zero():
    assert macro_f1([0, 0], [0, 1]) == pytest.approx(1 / 3, abs=1e-15)


def test_the_classes_of_the_mean_are_those_of_the_resample():
    # (a right, b taken for a): both rows 1/3; the first alone is right; the second alone has two classes, both 0
    counts = np.array([[1, 1], [2, 0], [0, 2]])
    values = measured(METRIC, np.array([0, 0]), np.array([0, 1]), counts)
    assert values == pytest.approx([1 / 3, 1.0, 0.0], abs=1e-15)


def test_a_label_unseen_in_training_is_a_class_of_its_own_with_f1_zero():
    # class 0: TP 1, FP 1 -> 2/3; class 1: TP 1 -> 1; unseen: FN 1 -> 0
    assert macro_f1([0, 1, 0], [0, 1, -1]) == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-15)


def test_only_unseen_labels_give_zero():
    assert macro_f1([0, 1], [-1, -1]) == 0.0


def test_macro_f1_is_that_of_scikit_learn():
    scikit = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    for classes in (2, 3, 40):
        predictions, targets = generator.integers(classes, size=30), generator.integers(-1, classes, size=30)
        expected = scikit.f1_score(targets, predictions, average="macro", zero_division=0)
        assert macro_f1(predictions, targets) == pytest.approx(expected, abs=1e-14)
