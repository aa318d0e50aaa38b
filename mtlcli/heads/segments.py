"""Softmax within groups of items whose sizes differ, such as the choices of a row or the places of a window."""

import torch
from torch import Tensor


def padded(values: Tensor, starts: Tensor, fill: float) -> Tensor:
    """Return the values (m,) of s groups as rows (s, longest), filled up behind their ends.

    Args:
        starts: (s + 1,) int64, the values of group i are `starts[i]` up to `starts[i + 1]`.
    """
    lengths = starts.diff()
    longest = int(lengths.max()) if len(lengths) else 0
    place = torch.arange(longest, device=values.device)
    # Behind the end of the last group, indices would be out of range. These places are filled in the next line.
    index = (starts[:-1].unsqueeze(1) + place).clamp_(max=max(0, len(values) - 1))
    return values[index].masked_fill(place >= lengths.unsqueeze(1), fill)


def log_softmax(values: Tensor, starts: Tensor) -> Tensor:
    """Return the logarithm of the softmax of values (m,) within each group, in float32."""
    values = values.float()
    # Padding adds exp(-inf) = 0. The total of an empty group is -inf, and no value uses it.
    totals = torch.logsumexp(padded(values, starts, -torch.inf), dim=1)
    return values - totals.repeat_interleave(starts.diff())
