"""Copies of parameters that regularizers compare the model with, and the pull towards them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Snapshot(nn.Module):
    """Copies of parameters by name, in buffers, so that a checkpoint stores them."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        super().__init__()
        for name, parameter in named:
            self.register_buffer(
                name.replace(".", "/"), parameter.detach().clone()
            )  # a buffer's name cannot contain a dot

    def tensors(self) -> dict[str, Tensor]:
        """Return the copies by the names of their parameters."""
        return {key.replace("/", "."): copy for key, copy in self.named_buffers()}

    def pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Return (parameter, copy) for each parameter of the model that has a copy."""
        copies = self.tensors()
        return [(parameter, copies[name]) for name, parameter in model.named_parameters() if name in copies]

    @torch.no_grad()
    def follow(self, model: nn.Module, momentum: float) -> None:
        """Set copy <- momentum * copy + (1 - momentum) * parameter."""
        pairs = self.pairs(model)
        if not pairs:  # a frozen encoder without shared modules
            return
        parameters, copies = zip(*pairs, strict=True)
        # On a GPU, a few kernels for all parameters instead of one for each.
        torch._foreach_lerp_(copies, parameters, 1 - momentum)


@torch.no_grad()
def pull(pairs: Iterable[tuple[nn.Parameter, Tensor]], strength: float) -> None:
    """Add strength * (parameter - anchor) to the gradient of each parameter that has one."""
    # Parameters without a gradient belong to absent tasks, which must not move.
    moving = [(parameter.grad, parameter, anchor) for parameter, anchor in pairs if parameter.grad is not None]
    if moving:
        gradients, parameters, anchors = zip(*moving, strict=True)
        torch._foreach_add_(gradients, torch._foreach_sub(parameters, anchors), alpha=strength)
