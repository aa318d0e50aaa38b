"""Projected attention layers: Stickland and Murray, ICML 2019, arXiv 1902.02671."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, Inputs
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.layers import is_causal
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.modules import normal_linear, zero_linear
from mtlcli.architectures.options import Backbone, Per, RateOfEncoder
from mtlcli.errors import MtlError

SHARE = 204 / 768
"""Width of a projected attention layer divided by that of the encoder: 204 in BERT-base (section 4.1)."""


class Attention(nn.Module):
    """Multi-head self-attention of width m without an output matrix."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        # No output matrix: V_d, which follows, takes its place.
        self.query, self.key, self.value = (normal_linear(width, width) for _ in range(3))
        self.heads, self.dropout = heads, dropout

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attended states (n, length, m); the mask (n, 1, 1 or length, length) is True where a token may be read."""
        n, length, width = states.shape
        query, key, value = (
            linear(states).view(n, length, self.heads, -1).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return attended.transpose(1, 2).reshape(n, length, width)


class ProjectedAttention(nn.Module):
    """Return ``gelu(V_d g(V_e h + b) + c)``: V_e (m, d) and V_d (d, m) for all layers, g an attention for each layer."""

    def __init__(self, dim: int, width: int, attentions: list[nn.Module]) -> None:
        super().__init__()
        self.encode, self.decode = normal_linear(dim, width), zero_linear(width, dim)
        self.attentions = nn.ModuleList(attentions)

    def forward(self, depth: int, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the change (n, length, dim) of one layer."""
        inner = self.attentions[depth](self.encode(states), mask)
        return nn.functional.gelu(self.decode(inner))


class LowRankLayers(nn.Module):
    """Return ``V_d gelu(V_e h + b) + c`` with V_e (m, d) and V_d (d, m) for each layer."""

    def __init__(self, dim: int, width: int, layers: int) -> None:
        super().__init__()
        self.encode = nn.ModuleList(normal_linear(dim, width) for _ in range(layers))
        self.decode = nn.ModuleList(zero_linear(width, dim) for _ in range(layers))

    def forward(self, depth: int, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the change (n, length, dim) of one layer."""
        changed: Tensor = self.decode[depth](nn.functional.gelu(self.encode[depth](states)))
        return changed


class PALs(Modular):
    """Add a small attention of each task beside every layer of a shared encoder, which is trained as well.

    ``h' = LN(a + ffn(a) + PAL(h))`` with h the layer's input and ``PAL(h) = gelu(V_d attn(V_e h + b) + c)`` (section 3.2): the projections
    V_e and V_d are the same in all layers of a task, the attention has queries, keys and values of its own in each. With
    `form: low-rank` the attention is a gelu, and every layer has projections of its own. V_d starts at zero, so that every hidden
    state is the encoder's before step 1.

    Parameters of a task: 2 d m + m + d + 3 N (m^2 + m) for N layers; low-rank N (2 d m + m + d).

    Widths of 204 and 100 in BERT-base, 6 heads and the gelu behind V_d are those of the paper's code; the equation in the paper has no
    gelu there. The paper samples tasks with the scheduler `annealed`.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        form: Annotated[Literal["pals", "low-rank"], Field(description="attention, or a gelu in each layer")] = "pals",
        width: Annotated[
            int | None,
            Field(ge=1, description="inner width m; by default 204 / 768 of the encoder's, low-rank 100 / 768"),
        ] = None,
        heads: Annotated[int, Field(ge=1, description="attention heads, which divide the width")] = 6,
        per: Per = "task",
        backbone: Backbone = "trained",
        lr: RateOfEncoder = None,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone)
        config: Any = facts.encoder.config
        dim, layers = facts.width, len(self.layers)
        self.causal = form == "pals" and is_causal(facts.encoder)
        if form == "low-rank":
            m = width or max(1, dim * 100 // 768)
            self.add_modules(facts, per, lambda: LowRankLayers(dim, m, layers))
            return
        m = width or heads * max(1, round(dim * SHARE / heads))
        if m % heads:
            raise MtlError(f"architecture.width: found {m}; expected a multiple of the {heads} heads")
        dropout = next(
            (
                float(getattr(config, key))
                # The names of BERT, of DistilBERT and newer models, and of GPT-2.
                for key in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
                if isinstance(getattr(config, key, None), float)
            ),
            0.0,
        )
        self.add_modules(
            facts, per, lambda: ProjectedAttention(dim, m, [Attention(m, heads, dropout) for _ in range(layers)])
        )

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return what to add to the output of the feed-forward network, from the layer's input."""
        # From the batch, because the form of the encoder's mask depends on its attention code. True: may be read.
        mask = None if inputs.mask is None else inputs.mask[:, None, None, :]
        if self.causal:
            length = inputs.tokens.shape[1]
            before = torch.ones(length, length, dtype=torch.bool, device=inputs.tokens.device).tril()
            mask = before if mask is None else mask & before
            # A padded position at the start would read nothing.
            mask = mask | torch.eye(length, dtype=torch.bool, device=mask.device)
        sets, read = self.modules_of(task), dict[int, Tensor]()

        def keep(call: Call) -> Tensor:
            # The layer's input, kept until the feed-forward network of the layer has run.
            read[call.depth] = call.given
            return call.given

        def add(call: Call, output: Tensor) -> Tensor:
            for layers in sets:
                # Inside the residual sum, so that a norm at the end of the layer applies to the change too.
                output = output + layers(call.depth, read[call.depth], mask)
            return output

        return {"ffn_out": add}, {"block": keep}
