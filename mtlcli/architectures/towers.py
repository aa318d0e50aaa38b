"""The base of architectures in which every task has its own copy of the upper layers, and all copies run side by side on the same texts."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, TaskModules, run_encoder
from mtlcli.architectures.hooks import replaced
from mtlcli.architectures.layers import distinct_blocks
from mtlcli.errors import MtlError


class Towers(Architecture):
    """Run T copies of the last layers of an encoder, one for each task, which can exchange states after every layer.

    From the first copied layer on, the encoder's states are those of all tasks one after the other (T n, length, dim), so that the
    encoder's own code passes them from layer to layer; each layer runs its T copies on T chunks. What it reads besides the states, such as
    masks, is the same for all. `states` returns them side by side (n, length, T dim), the same for every task.

    All copies start as the encoder's layers; the first task's are the encoder's own. All tasks use all copies.
    """

    def __init__(self, facts: ArchitectureFacts, layers: int | None) -> None:
        """Copy layers.

        Args:
            layers: number of last layers to copy; None for all.

        Raises:
            MtlError: the encoder has fewer layers, or one layer called at several depths.
        """
        super().__init__()
        self.encoder, self.count = facts.encoder, len(facts.tasks)
        blocks = distinct_blocks(facts.encoder)
        if layers is not None and layers > len(blocks):
            raise MtlError(
                f"architecture.layers: found {layers}; expected at most {len(blocks)}, the layers of this encoder"
            )
        self.depth = len(blocks)
        self.copied = blocks if layers is None else blocks[len(blocks) - layers :]
        # By task name, so that another run can load them. The first task uses the encoder's own layers.
        self.others = TaskModules({name: self._copy() for name in facts.names[1:]} if self.copied else {})

    def _copy(self) -> nn.ModuleDict:
        """Return copies of layers, named as in the encoder, so that `freeze: layer.4` and methods for each layer find them."""
        stack = self.copied[0].split(".")[-2]
        numbered = {name.split(".")[-1]: deepcopy(self.encoder.get_submodule(name)) for name in self.copied}
        return nn.ModuleDict({stack: nn.ModuleDict(numbered)})

    def copies(self, index: int) -> list[nn.Module]:
        """Return the copies of a layer, counted from the first copied one, in the order of the tasks."""
        towers: Any = self.others.values()
        return [
            self.encoder.get_submodule(self.copied[index]),
            *(list(next(iter(tower.values())).values())[index] for tower in towers),
        ]

    def meet(self, index: int, states: list[Tensor]) -> list[Tensor]:
        """Return the states (n, length, dim) of all tasks after a copied layer, from those before they meet."""
        return states

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the states of all tasks side by side, from the first copied layer on."""
        n = inputs.tokens.shape[0]
        layers = {
            name: _in_chunks(self.copies(index), n, self._meeting(index)) for index, name in enumerate(self.copied)
        }
        # The encoder's own code passes the states on; only its layers see that there are T times as many.
        with replaced(self.encoder, layers):
            hidden = run_encoder(self.encoder, inputs)
        last = self._side_by_side(hidden.last, n)
        first = self.depth - len(self.copied) + 1
        return HiddenStates(
            last,
            tuple(
                # The last layer is `last` itself, the same tensor, so that a cache stores it once.
                last if number == len(hidden.layers) - 1 else self._side_by_side(layer, n) if number >= first else layer
                for number, layer in enumerate(hidden.layers)
            ),
        )

    def _meeting(self, index: int) -> Callable[[list[Tensor]], list[Tensor]]:
        return lambda states: self.meet(index, states)

    def _side_by_side(self, states: Tensor, n: int) -> Tensor:
        """Return states (T n, length, dim) as (n, length, T dim)."""
        return torch.cat(states.unflatten(0, (self.count, n)).unbind(), dim=-1) if self.copied else states

    def of_tasks(self, states: Tensor) -> tuple[Tensor, ...]:
        """Return the states of each task from those side by side."""
        return states.chunk(self.count, dim=-1)

    def own(self, task: int, hidden: HiddenStates) -> HiddenStates:
        """Return the states of a task from those of all."""
        first = self.depth - len(self.copied) + 1
        if not self.copied:
            return hidden
        layers = [
            # Cached states have empty tensors for layers that are not stored.
            self.of_tasks(layer)[task] if number >= first and layer.shape[-1] else layer
            for number, layer in enumerate(hidden.layers)
        ]
        return HiddenStates(self.of_tasks(hidden.last)[task], tuple(layers), hidden.extra)

    def below(self) -> tuple[nn.Module, ...]:
        """Return the encoder and the copies."""
        return (self.encoder, self.others)

    def encoders(self) -> tuple[nn.Module, ...]:
        """Return the encoder and the copies."""
        return (self.encoder, self.others)

    def encoder_passes(self) -> float:
        """Return the cost of the common layers once and of the copied ones for each task."""
        return 1 + (self.count - 1) * len(self.copied) / self.depth


def _in_chunks(
    copies: Sequence[nn.Module], n: int, meet: Callable[[list[Tensor]], list[Tensor]]
) -> Callable[..., Any]:  # fmt: skip
    """Return a function in place of a layer's forward, which runs the copies on their chunks of the states.

    The states are the first tensor. The first copied layer reads those of n texts, the same for all copies; the others those of T n. The
    other arguments are given to every copy as they are, except what an earlier layer returned beside the states, such as T5's position
    bias, of which each copy gets its own.
    """
    # Bound before `replaced` sets the forward of the encoder's own layer, which would otherwise call itself.
    forwards = [copy.forward for copy in copies]

    def forward(*given: Any, **named: Any) -> Any:
        states = given[0] if given else next(value for value in named.values() if isinstance(value, Tensor))
        # By size, because the layer below decides it: only the first copied one reads n texts.
        is_split = states.shape[0] != n
        chunks = states.unflatten(0, (len(forwards), n)).unbind() if is_split else (states,) * len(forwards)

        def value_for(index: int, value: Any) -> Any:
            # By identity, because other tensors, such as masks, are for all copies.
            if value is states:
                return chunks[index]
            return value.of_copies[index] if isinstance(value, _OfCopies) else value

        returned = [
            run(
                *(value_for(index, value) for value in given),
                **{key: value_for(index, value) for key, value in named.items()},
            )
            for index, run in enumerate(forwards)
        ]
        if isinstance(returned[0], tuple):
            met = torch.cat(meet([outputs[0] for outputs in returned]))
            # The encoder passes these to the next layer unread, where `value_for` unpacks them.
            return (met, *(_OfCopies(rest) for rest in zip(*(outputs[1:] for outputs in returned), strict=True)))
        return torch.cat(meet(returned))

    return forward


class _OfCopies:
    """Hold what each copy of a layer returned beside the states."""

    def __init__(self, of_copies: tuple[Any, ...]) -> None:
        self.of_copies = of_copies
