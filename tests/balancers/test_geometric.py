"""The geometric mean of the losses."""

import pytest
import torch

import toy
from mtlcli.balancers.geometric import Geometric

ALL = torch.tensor([0, 1, 2])


def weights(losses: list[float]) -> list[float]:
    found = torch.tensor(losses, requires_grad=True)
    Geometric(toy.facts(3))(found, ALL[: len(losses)]).sum().backward()
    return found.grad.tolist()


def test_the_objectives_sum_to_the_geometric_mean():
    found = Geometric(toy.facts(3))(torch.tensor([1.0, 2.0, 4.0]), ALL)
    assert found.tolist() == pytest.approx([2 / 3] * 3)  # (1 * 2 * 4)^(1/3) = 2


def test_a_task_weighs_the_mean_over_k_times_its_loss():
    assert weights([1.0, 2.0, 4.0]) == pytest.approx([2 / 3, 2 / 6, 2 / 12])


def test_equal_losses_are_averaged_and_one_task_is_left_as_it_is():
    assert weights([0.7, 0.7, 0.7]) == pytest.approx([1 / 3] * 3)
    assert weights([0.7]) == pytest.approx([1.0])


def test_the_unit_of_a_loss_changes_no_ratio_between_the_pulls_of_the_tasks():
    plain, scaled = weights([1.0, 2.0, 4.0]), weights([1000.0, 2.0, 4.0])
    pulls = [
        [w * loss for w, loss in zip(one, by, strict=True)] for one, by in ((plain, [1, 2, 4]), (scaled, [1000, 2, 4]))
    ]
    for one in pulls:  # w_t dL_t for a change of one percent of each loss
        assert one == pytest.approx([one[0]] * 3)


def test_losses_whose_product_no_float_holds_are_no_trouble():
    found = Geometric(toy.facts(3))(torch.tensor([1e30, 1e30, 1e30]), ALL)
    assert float(found.sum()) == pytest.approx(1e30, rel=1e-4)


def test_a_loss_of_zero_gets_no_weight_and_takes_none_from_the_others_that_is_not_finite():
    # (1e-8 * 1 * 1)^(1/3) = 2.154435e-3
    assert weights([0.0, 1.0, 1.0]) == pytest.approx([0.0, 2.154435e-3 / 3, 2.154435e-3 / 3], rel=1e-4)
