"""Change what parts of an encoder's layers read and return, for one pass, while the encoder stays a plain model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from mtlcli.architectures.layers import EncoderLayer

Place = Literal["block", "attention_in", "attention_out", "ffn_in", "ffn_out", "last_norm", "norms"]
"""A part of every layer, see `EncoderLayer`."""


@dataclass(frozen=True)
class Call:
    """Describe one call of a module to a change.

    Attributes:
        depth: number of the layer, from 0.
        index: number of the module within its place: 0 to 2 for query, key and value.
        module: the module.
        given: what it reads; a change must not assume (n, length, dim), since DeBERTa also projects relative positions.
    """

    depth: int
    index: int
    module: nn.Module
    given: Tensor


ChangeOutput = Callable[[Call, Tensor], Tensor]
"""Return the new output of a module from its call and its output."""

ChangeInput = Callable[[Call], Tensor]
"""Return the new input of a module from its call."""


@contextmanager
def changed(
    encoder: nn.Module,
    layers: Sequence[EncoderLayer],
    *,
    outputs: Mapping[Place, ChangeOutput] | None = None,
    inputs: Mapping[Place, ChangeInput] | None = None,
) -> Iterator[None]:
    """Apply changes to every layer of an encoder within a `with` block, for one pass at a time.

    Hooks are removed afterwards, so that a copy, a saved model or another task meets the plain encoder. Changes look parameters up
    when they are called, so weights that `torch.func.functional_call` substitutes reach them.

    Args:
        outputs: by place, what to do with what a module returns.
        inputs: by place, what a module reads instead. For `block` it is the hidden state before the layer.
    """
    # A counter, not the module's place in the encoder, because ALBERT calls one block at several depths.
    depth = -1

    def enter(*_: object) -> None:
        nonlocal depth
        depth += 1

    # At the start of every pass, so that several can run within one `with` block.
    def restart(*_: object) -> None:
        nonlocal depth
        depth = -1

    def output_hook(change: ChangeOutput, index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], returned: Any) -> Any:
            call = Call(depth, index, module, _states(given, named))
            # Blocks of DeBERTa, MPNet and T5 return more than the states, such as a bias of positions.
            if isinstance(returned, tuple):
                return (change(call, returned[0]), *returned[1:])
            return change(call, returned)

        return hook

    def input_hook(change: ChangeInput, index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            states = change(Call(depth, index, module, _states(given, named)))
            if given:
                return (states, *given[1:]), named
            return given, {**named, _name_of_states(named): states}

        return hook

    # Once per module, because one block can be called at several depths.
    blocks = dict.fromkeys(layer.block for layer in layers)
    handles = [encoder.register_forward_pre_hook(restart)]
    try:
        # Before the changes of inputs: hooks run in the order of registration, and those of a block need the new depth.
        handles += [encoder.get_submodule(block).register_forward_pre_hook(enter) for block in blocks]
        for place, change_input in (inputs or {}).items():
            for name, index in _modules(layers, place):
                module = encoder.get_submodule(name)
                handles.append(module.register_forward_pre_hook(input_hook(change_input, index), with_kwargs=True))
        for place, change_output in (outputs or {}).items():
            for name, index in _modules(layers, place):
                # Before the hooks by which transformers collects hidden states, so that they collect the changed ones.
                hook = output_hook(change_output, index)
                handles.append(encoder.get_submodule(name).register_forward_hook(hook, prepend=True, with_kwargs=True))
        yield
    finally:
        # Also after an error, because a hook that stays would change every later pass.
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(encoder: nn.Module, forwards: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Run other functions in place of modules of an encoder, by their names, within a `with` block.

    The modules' hooks stay in effect, so that transformers collects hidden states as ever, and the encoder holds no other modules:
    its parameters, its copies and what is saved of it are the plain ones.
    """
    # An instance attribute hides the method of the class, and deleting it uncovers the method again.
    modules = {name: encoder.get_submodule(name) for name in forwards}
    before: dict[str, Any] = {name: module.__dict__.get("forward") for name, module in modules.items()}
    try:
        for name, forward in forwards.items():
            modules[name].forward = forward
        yield
    finally:
        for name, module in modules.items():
            if before[name] is None:
                del module.forward
            else:
                module.forward = before[name]


def _modules(layers: Sequence[EncoderLayer], place: Place) -> list[tuple[str, int]]:
    """Return the names of the modules of a place, each with its number within the place, without repeats."""
    # One hook for each module: layers of ALBERT share one, and a second hook would change its output twice.
    numbered: dict[tuple[str, int], None] = {}
    for layer in layers:
        names = getattr(layer, place)
        for index, name in enumerate((names,) if isinstance(names, str) else names or ()):
            numbered[name, index] = None
    return list(numbered)


def _states(given: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    states = given[0] if given else named[_name_of_states(named)]
    if not isinstance(states, Tensor):
        raise TypeError("the first argument of a layer is no tensor")
    return states


def _name_of_states(named: dict[str, Any]) -> str:
    return next(name for name, value in named.items() if isinstance(value, Tensor))
