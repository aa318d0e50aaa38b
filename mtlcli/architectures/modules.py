"""Small modules of several architectures."""

import torch
from torch import Tensor, nn


def zero_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer whose weights and bias are 0."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.zero_()
    return linear


def normal_linear(inputs: int, outputs: int, *, bias: bool = True, std: float = 0.02) -> nn.Linear:
    """Return a linear layer whose weights are drawn from N(0, std^2), and whose bias is 0."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


class TaskVector(nn.Module):
    """Hold the learned vector z_t (size,) of a task, which starts from N(0, 1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(size))


def mean_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens of each text (n, dim), for states (n, length, dim) and a mask (n, length)."""
    # States at padding are arbitrary, and must not enter the mean.
    weights = mask.unsqueeze(-1).to(states.dtype)
    # At least 1, so that a text without tokens has a mean of 0 and not NaN.
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)
