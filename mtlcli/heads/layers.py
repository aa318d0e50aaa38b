"""Hidden layers between the encoding and a head's output: of one head, or shared by name between several heads."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from mtlcli.errors import MtlError
from mtlcli.facts import seed_for
from mtlcli.heads.base import HeadFacts

Activation = Literal["relu", "gelu", "tanh"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}

HiddenSizes = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(description="widths of the hidden layers, each after dropout and before the activation"),
]
Shared = Annotated[
    str | None,
    Field(min_length=1, description="name of the hidden layers: heads with the same name share them"),
]


def hidden_layers(
    facts: HeadFacts,
    hidden: tuple[int, ...],
    activation: Activation,
    dropout: float,
    shared: str | None,
    read: int | None = None,
) -> tuple[nn.Module, int]:
    """Return dropout, linear layer and activation for each width of `hidden`, and the width of the result.

    Args:
        shared: name under which heads share these layers; None: they belong to this head.
        read: width of the input; None: that of an encoding.

    Raises:
        MtlError: there are no layers to share, or another head built the layers of this name differently.
    """
    if shared is not None and not hidden:
        raise MtlError(f'tasks.{facts.task.name}.head.hidden: no layers to share as "{shared}"; set their widths')

    width_in = read or facts.dim

    def make() -> nn.Module:
        parts: list[nn.Module] = []
        width = width_in
        for size in hidden:
            parts += [nn.Dropout(dropout), nn.Linear(width, size), ACTIVATIONS[activation]()]
            width = size
        return nn.Sequential(*parts)

    layers = make() if shared is None else facts.shared(shared, make)
    return layers, hidden[-1] if hidden else width_in


class SharedModules:
    """Modules that several heads of one model hold. Their initial weights depend on the seed and the module's name alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._modules: dict[str, tuple[nn.Module, str]] = {}

    def asked_by(self, task: str) -> Callable[[str, Callable[[], nn.Module]], nn.Module]:
        """Return `HeadFacts.shared` for the head of this task. It raises MtlError for a module of another build."""

        def shared(name: str, make: Callable[[], nn.Module]) -> nn.Module:
            # Built for every head, so that its options can be compared with those of the first one. The fork keeps the
            # random numbers of the head itself the same whether or not it is the first. Models are built on the CPU, so
            # no GPU state is saved.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_for(self._seed, "shared", name))
                fresh = make()
            module, first = self._modules.setdefault(name, (fresh, task))
            if _build(module) != _build(fresh):
                raise MtlError(
                    f'tasks.{task}.head.shared: "{name}" is {_build(module)} in tasks.{first}.head and {_build(fresh)} here; '
                    "set the same hidden layers, activation and dropout, or another name"
                )
            return module

        return shared


def _build(module: nn.Module) -> str:
    """Return the parts of a module on one line."""
    return ", ".join(repr(part) for part in module.modules() if not any(part.children())) or repr(module)
