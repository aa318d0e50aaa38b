import torch

from mtlcli.templates.balancers import Example
from mtlcli.testing import RUN, check_balancer


def test_contract() -> None:
    check_balancer(Example)
    check_balancer(Example, temperature=0.1)


def test_four_times_the_exponential_weighs_four_times_as_much() -> None:
    losses = torch.tensor([0.0, 3.0]).log1p()  # exp(losses) is 1 and 4: weights 2 * 1/5 and 2 * 4/5
    objectives = Example(RUN)(losses, torch.tensor([0, 2]))
    torch.testing.assert_close(objectives, losses * torch.tensor([0.4, 1.6]))
