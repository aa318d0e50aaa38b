import torch

from mtlcli.templates.gradient_regularizers import Example
from mtlcli.testing import RUN, check_gradient_regularizer


def test_contract() -> None:
    check_gradient_regularizer(Example)
    check_gradient_regularizer(Example, scale="mean")


def test_norms_of_one_and_three_both_become_two() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    weights = Example(RUN).weights(rows @ rows.T, torch.tensor([0, 1]))
    torch.testing.assert_close(weights[:, None] * rows, 2 * torch.eye(2, dtype=torch.float64))
