"""Attention of transformers' encoders whose dropout is a function of the row, as that of `row_noise` is."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from mtlcli.model.row_noise import dropped_by_row

IMPLEMENTATION = "mtlcli_dropout_by_row"
"""The name under which transformers knows this attention."""


def attend_by_row(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention with dropout of its weights by row. Fused kernels draw their own numbers, so it writes the weights to memory.

    Without dropout, or where the rows of the pass are not known, it is transformers' fused attention.

    Args:
        module: the attention module, which numbers its own draws.
        query, key, value: states (s, heads, length, dim).
        attention_mask: what is added to the scores, broadcast to (s, heads, length, length).
        dropout: probability of a weight to be zeroed; 0 in evaluation.
        **more: what models pass beside these, such as `scaling`.

    Returns:
        States (s, length, heads, dim), and None for the weights.
    """
    dropped = dropped_by_row(module, dropout, (len(query), query.shape[1], query.shape[2], key.shape[2]))
    if dropped is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **more)
    # Grouped-query attention: several query heads share a head of keys and values.
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scaling = more.get("scaling")
    scores = torch.matmul(query, key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    for added in (more.get("position_bias"), attention_mask):
        if added is not None:
            scores = scores + added
    weights = scores.softmax(dim=-1).masked_fill(dropped, 0) * (1 / (1 - dropout))
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, attend_by_row)
# Without a mask, attention in both directions and that of decoders could not be told apart.
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)


def use_row_attention(model: nn.Module) -> bool:
    """Draw the dropout of attention weights by row in every encoder of a model and in copies of their layers.

    An encoder with attention of its own drops weights by a module (DeBERTa), which `use_row_dropout` replaces, or by a function.

    Returns:
        Whether the code of every encoder lets its attention be replaced.
    """
    encoders = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    replaceable = [encoder for encoder in encoders if encoder._supports_attention_backend]
    for encoder in replaceable:
        encoder.set_attn_implementation(IMPLEMENTATION)
    # A copied layer has a copy of the configuration, which the encoder does not reach.
    names = {type(encoder.config) for encoder in replaceable}
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if type(config) in names:
            config._attn_implementation = IMPLEMENTATION
    return len(replaceable) == len(encoders)
