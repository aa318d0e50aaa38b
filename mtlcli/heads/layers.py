"""Hidden layers between the encoding and a head's output: one head's own, or one module that several heads hold by its name."""

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
    Field(description="widths of the hidden layers, each behind dropout and before the activation"),
]
Shared = Annotated[
    str | None,
    Field(min_length=1, description="name of the hidden layers: heads that give the same name hold the same ones"),
]


def hidden_layers(
    facts: HeadFacts,
    hidden: tuple[int, ...],
    activation: Activation,
    dropout: float,
    shared: str | None,
    read: int | None = None,
) -> tuple[nn.Module, int]:
    """Dropout, linear layer and activation for each width of `hidden`, and the width that comes out. `read` numbers go in,
    where these are not the encoding alone.

    Raises MtlError for a name without layers to be shared, and where another head built the layers of that name otherwise.
    """
    if shared is not None and not hidden:
        raise MtlError(
            f'tasks.{facts.task.name}.head.hidden: there are no layers to be shared as "{shared}"; name their widths'
        )

    width_in = read or facts.dim

    def make() -> nn.Module:
        parts: list[nn.Module] = []
        width = width_in
        for size in hidden:
            parts += [nn.Dropout(dropout), nn.Linear(width, size), ACTIVATIONS[activation]()]
            width = size
        return nn.Sequential(*parts)

    made = make() if shared is None else facts.shared(shared, make)
    return made, hidden[-1] if hidden else width_in


class SharedModules:
    """The modules that heads of one model hold together. The first weights of each depend on the seed and its name alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made: dict[str, tuple[nn.Module, str]] = {}

    def asked_by(self, task: str) -> Callable[[str, Callable[[], nn.Module]], nn.Module]:
        """What `HeadFacts.shared` is for the head of this task. It raises MtlError for a module of another build."""

        def shared(name: str, make: Callable[[], nn.Module]) -> nn.Module:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_for(self._seed, "shared", name))
                fresh = make()
            found, first = self._made.setdefault(name, (fresh, task))
            if _build(found) != _build(fresh):
                raise MtlError(
                    f'tasks.{task}.head.shared: "{name}" is {_build(found)} in tasks.{first}.head and {_build(fresh)} here; '
                    "give the same hidden layers, activation and dropout, or another name"
                )
            return found

        return shared


def _build(module: nn.Module) -> str:
    """What a module is made of, on one line."""
    return ", ".join(repr(part) for part in module.modules() if not any(part.children())) or repr(module)
