"""Experts on hidden states: what the mixtures of experts share."""

import torch
from torch import Tensor, nn

from mtlcli.architectures.adapters import Bottleneck
from mtlcli.architectures.modules import mean_over_tokens, zero_linear


class Expert(nn.Module):
    """Return ``h + U gelu(D h + b) + c`` for states h (..., dim)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        # Random, because equal experts would stay equal.
        self.change = Bottleneck(dim, width, activation="gelu", zero=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return the expert's states (..., dim)."""
        mapped: Tensor = states + self.change(states)
        return mapped


class Gate(nn.Module):
    """Return weights that sum to 1 over experts, from the mean state of a text or from each token's state."""

    def __init__(self, dim: int, experts: int, *, on: str, dropout: float = 0.0) -> None:
        super().__init__()
        # Zero: every expert has the same weight before step 1.
        self.scores = zero_linear(dim, experts, bias=False)
        self.on, self.dropout = on, nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return weights (n, 1 or length, experts), computed in float32, for states (n, length, dim) and a mask (n, length)."""
        # Axis 1 has length 1 for a whole text, and broadcasts over its tokens in `mixture`.
        read = mean_over_tokens(states, mask).unsqueeze(1) if self.on == "text" else states
        weights = self.scores(read).float().softmax(-1)
        # Without a gate that some steps close, one expert can take over early.
        weights = self.dropout(weights)
        # Rescaled to a sum of 1, because experts keep the state itself, which a smaller sum would shrink. The bound
        # avoids 0 / 0 where all weights are dropped; the mixture is then 0.
        return (weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)).to(states.dtype)


def mixture(outputs: list[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted sum of outputs (n, length, dim), one for each of the last axis of weights (n, 1 or length, experts)."""
    return (torch.stack(outputs, dim=-1) * weights.unsqueeze(-2)).sum(-1)
