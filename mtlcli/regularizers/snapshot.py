"""Copies of parameters that regularizers compare the model with, and the pull towards them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Snapshot(nn.Module):
    """Parameters by name as they were, in buffers, so that a checkpoint holds them."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        super().__init__()
        for name, parameter in named:
            self.register_buffer(name.replace(".", "/"), parameter.detach().clone())  # a buffer's name holds no dot

    def tensors(self) -> dict[str, Tensor]:
        """The copies by the names of their parameters."""
        return {key.replace("/", "."): copy for key, copy in self.named_buffers()}

    def pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter of the model that has a copy, with it."""
        copies = self.tensors()
        return [(parameter, copies[name]) for name, parameter in model.named_parameters() if name in copies]

    @torch.no_grad()
    def follow(self, model: nn.Module, inertia: float) -> None:
        """copy <- inertia * copy + (1 - inertia) * parameter; with inertia 0 the copy is made anew."""
        parameters, copies = zip(*self.pairs(model), strict=True)
        torch._foreach_lerp_(copies, parameters, 1 - inertia)


@torch.no_grad()
def pull(pairs: Iterable[tuple[nn.Parameter, Tensor]], strength: float) -> None:
    """Adds strength * (parameter - anchor) to the gradient of each parameter that has one."""
    moving = [(parameter.grad, parameter, anchor) for parameter, anchor in pairs if parameter.grad is not None]
    if moving:
        gradients, parameters, anchors = zip(*moving, strict=True)
        torch._foreach_add_(gradients, torch._foreach_sub(parameters, anchors), alpha=strength)
