"""(IA)^3: Liu et al., NeurIPS 2022, arXiv 2205.05638."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, Inputs
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.lora import contiguous_thirds, weight_of
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.options import Per, Rate
from mtlcli.errors import MtlError


class Scales(nn.Module):
    """Hold the factors of keys, values and the hidden state of the feed-forward network of one layer."""

    def __init__(self, keys: int, values: int, hidden: int) -> None:
        super().__init__()
        self.key, self.value, self.hidden = (nn.Parameter(torch.ones(width)) for width in (keys, values, hidden))


class IA3(Modular):
    """Multiply keys, values and the hidden state of the feed-forward network of a frozen encoder by learned vectors.

    ``k <- l_k * k``, ``v <- l_v * v`` and ``W_out (l_f * g)``, g the activated hidden state (section 3.3), for each layer. All factors
    start at 1, so that every hidden state is the encoder's before step 1. `per: both` multiplies by the shared factors and the
    task's. A merged encoder has scaled rows of the key's and value's weights and scaled columns of W_out (`mtl export`).

    Parameters per set and layer: d_k + d_v + F, with d_k and d_v the widths of keys and values and F that of the feed-forward
    network.

    The learning rate is the paper's for T0; weight decay does not apply to vectors.
    """

    def __init__(self, facts: ArchitectureFacts, *, per: Per = "task", lr: Rate = 3e-3) -> None:
        super().__init__(facts, lr=lr)
        self.fused = len(self.layers[0].attention_in) == 1
        if self.fused and not contiguous_thirds(self.encoder, self.layers):
            raise MtlError(
                "architecture: this encoder has one projection for query, key and value, whose rows are not in this order, so ia3 "
                "cannot scale keys and values"
            )
        # The projections are told apart by the order of their calls, which needs all three.
        if not self.fused and len(self.layers[0].attention_in) != 3:
            raise MtlError("architecture: this encoder has no projections for query, key and value, which ia3 scales")

        def scales() -> nn.ModuleList:
            return nn.ModuleList(Scales(*self._widths(depth)) for depth in range(len(self.layers)))

        self.add_modules(facts, per, scales)

    def _widths(self, depth: int) -> tuple[int, int, int]:
        layer = self.layers[depth]
        rows = [weight_of(self.encoder.get_submodule(name)).shape[0] for name in layer.attention_in]
        # With grouped queries, keys and values are narrower than the encoder.
        keys, values = (rows[0] // 3, rows[0] // 3) if self.fused else rows[1:]
        return keys, values, weight_of(self.encoder.get_submodule(layer.ffn_out)).shape[1]

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the factors of the projections' outputs and of the input of the last one."""
        sets = self.modules_of(task)

        def scale(states: Tensor, name: str, depth: int) -> Tensor:
            for scales in sets:
                states = states * getattr(scales[depth], name)
            return states

        def project(call: Call, output: Tensor) -> Tensor:
            # Before any rotary embedding, so that the scales can be merged into the rows of the weights.
            if self.fused:
                query, key, value = output.chunk(3, dim=-1)
                return torch.cat((query, scale(key, "key", call.depth), scale(value, "value", call.depth)), dim=-1)
            return output if call.index == 0 else scale(output, ("key", "value")[call.index - 1], call.depth)

        return {"attention_in": project}, {"ffn_out": lambda call: scale(call.given, "hidden", call.depth)}

    def merged(self, task: int | None) -> nn.Module:
        """Return the encoder with scaled weights."""
        self.check_mergeable(task)
        encoder = deepcopy(self.encoder)

        def rows_of(name: str, depth: int) -> list[Tensor]:
            """Return weight and bias of the projection of keys or values, as views."""
            index = ("key", "value").index(name) + 1
            module: Any = encoder.get_submodule(self.layers[depth].attention_in[0 if self.fused else index])
            # The bias is part of the scaled output. Views, because they are changed in place.
            tensors = [weight_of(module)] + ([] if module.bias is None else [module.bias])
            return [tensor.chunk(3)[index] if self.fused else tensor for tensor in tensors]

        with torch.no_grad():
            for scales in self.modules_of(task or 0):
                for depth, of_layer in enumerate(scales):
                    for name in ("key", "value"):
                        for tensor in rows_of(name, depth):
                            factors = getattr(of_layer, name)
                            tensor.mul_(factors.unsqueeze(1) if tensor.dim() == 2 else factors)
                    # The input of this projection is scaled: columns (out, in), and no bias.
                    weight_of(encoder.get_submodule(self.layers[depth].ffn_out)).mul_(of_layer.hidden)
        return encoder
