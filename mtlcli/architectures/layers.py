"""Find the layers of an encoder, and the projections and norms in them, by tracing one short text.

No model's modules are named: the stack is the list of equal blocks with projections, and what the projections read tells their
roles. One entry per call of a block, so an encoder that calls one block several times (ALBERT) has several.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import without_cache
from mtlcli.errors import MtlError

LENGTH = 7
"""Tokens of the traced text: unlike any width, so that a tensor (1, 7, width) is one of hidden states."""


@dataclass(frozen=True)
class EncoderLayer:
    """Name the modules of one layer of an encoder, as `encoder.get_submodule` finds them.

    Attributes:
        block: the whole layer.
        attention_in: projections that read the input of the attention, in the order of their calls: query, key and value, or one
            module for all three.
        attention_out: projection of what the attention returns.
        ffn_in: projections that read the input of the feed-forward network, one, or gate and value.
        ffn_out: projection of the hidden state of the feed-forward network.
        last_norm: norm whose output is that of the block; None in a pre-norm encoder.
        norms: all norms.
    """

    block: str
    attention_in: tuple[str, ...]
    attention_out: str
    ffn_in: tuple[str, ...]
    ffn_out: str
    last_norm: str | None
    norms: tuple[str, ...]


@dataclass
class _Call:
    """One call of a projection or norm within a block; the tensors are kept, so that no address is used twice."""

    name: str
    is_norm: bool
    given: Tensor
    returned: Tensor


@dataclass
class _BlockCall:
    """One call of a block: the calls within it, and what it returned."""

    name: str
    calls: list[_Call] = field(default_factory=list)
    output: Tensor | None = None


def trace_layers(encoder: nn.Module) -> tuple[EncoderLayer, ...]:
    """Return the layers of an encoder in the order of their calls.

    Raises:
        MtlError: the encoder has no stack of equal layers with attention and a feed-forward network, as these modules need.
    """
    name = type(encoder).__name__
    stack = _stack(encoder)
    if stack is None:
        raise MtlError(f"{name} has no list of equal layers with attention and feed-forward projections")
    prefix, blocks = stack
    calls: list[_BlockCall] = []
    handles = []
    for number, block in enumerate(blocks):
        block_name = f"{prefix}.{number}"
        # The default argument binds the name of this block; a closure would see the last one.
        handles.append(block.register_forward_pre_hook(lambda *_, key=block_name: calls.append(_BlockCall(key))))
        handles.append(block.register_forward_hook(_block_ends(calls)))
        for inner, module in block.named_modules():
            if _is_projection(module) or is_norm(module):
                handles.append(module.register_forward_hook(_observe(calls, f"{block_name}.{inner}", is_norm(module))))
    was_training = encoder.training
    try:
        # Without dropout, which would draw random numbers.
        encoder.eval()
        run_short_text(encoder)
    finally:
        encoder.train(was_training)
        for handle in handles:
            handle.remove()
    return tuple(_layer(name, call) for call in calls)


def distinct_blocks(encoder: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers of an encoder, from the lowest to the highest.

    Raises:
        MtlError: the layers cannot be found, or one is called at several depths (ALBERT).
    """
    blocks = tuple(layer.block for layer in trace_layers(encoder))
    if len(set(blocks)) < len(blocks):
        raise MtlError(
            f"{type(encoder).__name__} calls one layer at several depths; expected an encoder with separate layers"
        )
    return blocks


def run_short_text(encoder: nn.Module, last: int = 4 + LENGTH) -> Tensor:
    """Run the encoder on seven made-up tokens, of which `last` is the last, and return their hidden states (1, 7, dim)."""
    device = next(encoder.parameters()).device
    tokens = torch.tensor([*range(5, 4 + LENGTH), last], device=device).unsqueeze(0)
    tokens = tokens % encoder.get_input_embeddings().num_embeddings  # type: ignore[operator]
    with torch.no_grad():
        output = encoder(input_ids=tokens, **without_cache(encoder))
    states: Tensor = output.last_hidden_state
    return states


def is_causal(encoder: nn.Module) -> bool:
    """Return whether a token's state ignores the tokens after it, as in a decoder."""
    was_training = encoder.training
    try:
        encoder.eval()
        first, second = run_short_text(encoder), run_short_text(encoder, last=5)
    finally:
        encoder.train(was_training)
    # Only the last token differs, so the first state differs only where it depends on later tokens.
    return torch.equal(first[:, 0], second[:, 0])


def _is_projection(module: nn.Module) -> bool:
    """Return whether a module is a linear map: `nn.Linear`, or one such as GPT-2's `Conv1D`."""
    weight = getattr(module, "weight", None)
    return (
        not any(module.children())
        and isinstance(weight, nn.Parameter)
        and weight.dim() == 2
        and not isinstance(module, nn.Embedding)
    )


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm: one weight per coordinate."""
    weight = getattr(module, "weight", None)
    return not any(module.children()) and isinstance(weight, nn.Parameter) and weight.dim() == 1


def _stack(encoder: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Return the outermost list of blocks of one class that hold at least four projections each, with its name."""
    # Breadth first, so that the list of blocks comes before lists within a block, such as those of experts.
    queue = [("", encoder)]
    while queue:
        name, module = queue.pop(0)
        if isinstance(module, nn.ModuleList) and len(module):
            alike = len({type(block) for block in module}) == 1
            # The smallest number of projections of a layer: one each for attention in and out, feed-forward in and out.
            if alike and all(sum(map(_is_projection, block.modules())) >= 4 for block in module):
                return name, module
        queue += [(f"{name}.{child}".lstrip("."), inner) for child, inner in module.named_children()]
    return None


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    return next((item for item in value if isinstance(item, Tensor)), None) if isinstance(value, tuple) else None


def _observe(calls: list[_BlockCall], name: str, is_norm: bool) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
        states, output = _first_tensor(given), _first_tensor(returned)
        # DeBERTa also projects its relative positions, which are no text of this length.
        if not calls or states is None or output is None or states.shape[:-1].numel() != LENGTH:
            return
        if all(call.name != name for call in calls[-1].calls):
            calls[-1].calls.append(_Call(name, is_norm, states, output))

    return hook


def _block_ends(calls: list[_BlockCall]) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
        calls[-1].output = _first_tensor(returned)

    return hook


def _layer(encoder: str, block: _BlockCall) -> EncoderLayer:
    """Return the roles of the projections of one call of a block, which read four different tensors in order."""
    groups: list[list[_Call]] = []
    for call in (call for call in block.calls if not call.is_norm):
        if groups and groups[-1][-1].given.data_ptr() == call.given.data_ptr():
            groups[-1].append(call)
        else:
            groups.append([call])
    if len(groups) != 4 or len(groups[1]) != 1 or len(groups[3]) != 1:
        raise MtlError(
            f"{encoder}: its layers have {len(groups)} groups of projections; expected four: attention in, attention out, "
            "feed-forward in, feed-forward out"
        )
    attention_in, (attention_out,), ffn_in, (ffn_out,) = groups
    norms = [call for call in block.calls if call.is_norm]
    # Gemma 3 ends a block with a norm of the branch, which is not the block's output and does not count.
    last = norms[-1] if norms else None
    output = block.output
    ends_with_norm = last is not None and output is not None and last.returned.data_ptr() == output.data_ptr()
    return EncoderLayer(
        block.name,
        tuple(call.name for call in attention_in),
        attention_out.name,
        tuple(call.name for call in ffn_in),
        ffn_out.name,
        last.name if last is not None and ends_with_norm else None,
        tuple(call.name for call in norms),
    )
