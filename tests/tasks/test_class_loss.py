"""Weights of classes, and what a guess and a perfect model cost under the options of a task."""

import math

import numpy as np
import pytest

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.tasks.class_loss import LARGEST_WEIGHT, ClassLoss, balanced_weights, weights_by_name
from mtlcli.tasks.targets import Classes, Score

COUNTS = np.array([90, 9, 1])


def test_balanced_weights_give_every_class_the_same_total():
    weights = balanced_weights(COUNTS)
    assert weights.tolist() == pytest.approx([0.370370, 3.703704, 33.333333], abs=1e-6)
    assert (COUNTS * weights).tolist() == pytest.approx([100 / 3] * 3)


def test_the_root_of_balanced_weights_is_milder():
    weights = balanced_weights(COUNTS, root=True)
    assert (weights / weights[0]).tolist() == pytest.approx([1.0, math.sqrt(10), math.sqrt(90)])
    assert COUNTS @ weights == pytest.approx(100.0)


def test_a_class_without_rows_has_weight_0_and_the_others_share_its_part():
    assert balanced_weights(np.array([6, 0, 2])).tolist() == pytest.approx([8 / 12, 0.0, 2.0])


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("counts", [[1, 10**6], [1, 150, 10**6], [1, 2, 3, 5000], [3, 10**9, 10**9], [7], [1, 10**12]])
def test_no_weight_is_above_the_largest_and_the_mean_stays_1(counts, root):
    weights = balanced_weights(np.array(counts), root=root)
    assert weights.max() <= LARGEST_WEIGHT * (1 + 1e-12)
    assert np.array(counts) @ weights == pytest.approx(sum(counts))
    assert sorted(weights, reverse=True) == list(weights)


def test_raising_the_other_weights_can_bring_a_second_class_to_the_limit():
    weights = balanced_weights(np.array([1, 3390, 10**6]))  # 334464, 98.7, .33 before the limit
    assert weights[0] == weights[1] == LARGEST_WEIGHT
    assert weights[2] == pytest.approx((1003391 - 339100) / 10**6)


def test_weights_by_name_leave_the_other_classes_at_1():
    assert weights_by_name({"rare": 4}, ("common", "rare"), "x").tolist() == [1.0, 4.0]


def test_a_weight_for_no_class_suggests_the_nearest():
    with pytest.raises(MtlError, match=r'^tasks.t.class_weights: no class "rar"; did you mean "rare"\?$'):
        weights_by_name({"rar": 4}, ("common", "rare"), "tasks.t.class_weights")


def test_a_uniform_guess_costs_less_under_the_focal_loss_and_the_same_under_label_smoothing():
    def guess(settings: ClassLoss) -> float:
        return TaskFacts("t", 100, 10, Classes.named("a", "b", "c", "d"), class_loss=settings).guess

    assert guess(ClassLoss()) == guess(ClassLoss(smoothing=0.2)) == pytest.approx(math.log(4))
    assert guess(ClassLoss(gamma=2.0)) == pytest.approx(0.75**2 * math.log(4))
    assert guess(ClassLoss((1.0, 1.0, 1.0, 5.0), mean_weight=2.0)) == pytest.approx(2 * math.log(4))
    assert TaskFacts("t", 100, 10, Score(0.0, 5.0)).guess == 1.0


def test_the_loss_cannot_fall_below_the_entropy_of_a_smoothed_label():
    gold, other = 0.9 + 0.1 / 3, 0.1 / 3
    assert ClassLoss(smoothing=0.1).floor(3) == pytest.approx(-gold * math.log(gold) - 2 * other * math.log(other))
    assert ClassLoss(smoothing=0.1).floor(3) == pytest.approx(0.291, abs=1e-3)
    assert ClassLoss(gamma=2.0).floor(3) == 0.0
