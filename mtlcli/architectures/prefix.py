"""Prefix tuning: Li and Liang, ACL 2021, arXiv 2101.00190; the gate of Zhang et al. (LLaMA-Adapter), ICLR 2024, arXiv 2303.16199."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, Inputs
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.lora import weight_of
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.options import Backbone, Norms, Per, Rate


class Prefix(nn.Module):
    """Hold keys and values (heads, n, head width) of one layer, and a gate for each head."""

    def __init__(self, heads: int, length: int, width: int) -> None:
        super().__init__()
        # Random, because with gates and values of zero neither would have a gradient.
        self.keys, self.values = (nn.Parameter(0.02 * torch.randn(heads, length, width)) for _ in range(2))
        self.gates = nn.Parameter(torch.zeros(heads))


class PrefixTuning(Modular):
    """Let the attention of every layer of a frozen encoder read learned keys and values of the task.

    For each head ``c + tanh(g) softmax(q P_k' / sqrt(d_h)) P_v`` with c what the head returns for the text. The gates g start at zero, so
    that every hidden state is the encoder's before step 1. `per: both` puts a shared prefix and the task's into one softmax, each with
    its gate.

    Parameters per set: N (2 n d + heads) for N layers and n vectors.

    Differences from Li and Liang: they concatenate keys and values with those of the text, in one softmax, which changes the encoder
    before step 1, and train through a small network; this is the gated form, which needs no positions and no longer mask. Queries
    are those before rotary embeddings, so that a prefix has no position. In encoders that interleave query, key and value by
    head in one projection, a linear map of the state takes the query's place.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        length: Annotated[int, Field(ge=1, description="number n of keys and values in a layer")] = 30,
        per: Per = "task",
        backbone: Backbone = "frozen",
        norms: Norms = "frozen",
        lr: Rate = 1e-3,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone, norms=norms)
        config: Any = facts.encoder.config
        self.heads = int(config.num_attention_heads)
        # Heads times head width, which can differ from the encoder's width, as in Qwen3.
        self.context = weight_of(facts.encoder.get_submodule(self.layers[0].attention_out)).shape[1]
        width = self.context // self.heads
        self.add_modules(facts, per, lambda: nn.ModuleList(Prefix(self.heads, length, width) for _ in self.layers))

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return what to add to the input of the attention's last projection, from the queries."""
        sets, queries = self.modules_of(task), dict[int, Tensor]()
        size = inputs.tokens.shape

        def keep(call: Call, output: Tensor) -> Tensor:
            # DeBERTa also projects its relative positions.
            if call.index == 0 and output.shape[:2] == size and call.depth not in queries:
                # In one projection for all three, the query comes first where the rows are not interleaved by head.
                queries[call.depth] = output[..., : self.context]
            return output

        def add(call: Call) -> Tensor:
            # Axes: n texts, l tokens, h heads, d head width, k keys of all prefixes.
            query = queries[call.depth].unflatten(-1, (self.heads, -1))
            prefixes = [prefixes[call.depth] for prefixes in sets]
            keys = torch.cat([prefix.keys for prefix in prefixes], dim=1).to(query.dtype)
            scores = torch.einsum("nlhd,hkd->nlhk", query, keys).float() / query.shape[-1] ** 0.5
            # After the softmax, so that a gate of 0 gives exactly the context of the encoder.
            gates = torch.cat(
                [prefix.gates.tanh().unsqueeze(1).expand(prefix.keys.shape[:2]) for prefix in prefixes], 1
            )
            weights = (scores.softmax(-1) * gates).to(query.dtype)
            values = torch.cat([prefix.values for prefix in prefixes], dim=1).to(query.dtype)
            return call.given + torch.einsum("nlhk,hkd->nlhd", weights, values).flatten(-2).view_as(call.given)

        return {"attention_in": keep}, {"attention_out": add}
