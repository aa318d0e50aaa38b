import torch
from mtlcli_example.loss_rank import LossRank

from mtlcli.testing import RUN, check_balancer


def test_contract() -> None:
    check_balancer(LossRank)
    check_balancer(LossRank, spread=1.0)


def test_three_losses_weigh_from_one_half_to_three_halves() -> None:
    losses = torch.tensor([2.0, 900.0, 0.1])  # the ranks count, not the sizes
    objectives = LossRank(RUN, spread=0.5)(losses, torch.arange(3))
    torch.testing.assert_close(objectives, losses * torch.tensor([1.0, 1.5, 0.5]))


def test_equal_losses_share_their_rank() -> None:
    objectives = LossRank(RUN, spread=1.0)(torch.tensor([1.0, 1.0, 0.5]), torch.arange(3))
    torch.testing.assert_close(objectives, torch.tensor([1.5, 1.5, 0.0]))


def test_a_spread_of_zero_is_equal_weighting() -> None:
    losses = torch.tensor([2.0, 900.0, 0.1])
    torch.testing.assert_close(LossRank(RUN, spread=0.0)(losses, torch.arange(3)), losses)
