"""Shared and private features combined: section 2.1.2 of the survey of Chen, Zhang and Yang, arXiv 2109.09138, after Liu et al., 2016;
Zheng et al., 2018; Lan et al., 2017."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.adapters import Bottleneck
from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.architectures.modules import zero_linear
from mtlcli.architectures.options import RateOfHeads, Width, of_heads


class Fusion(nn.Module):
    """Combine shared states S with the private ones of a task ``P = S + W_2 relu(W_1 S)``."""

    def __init__(self, dim: int, width: int, combine: str) -> None:
        super().__init__()
        self.private, self.combine = Bottleneck(dim, width, activation="relu"), combine
        if combine == "gate":
            # Zero: half of each, which is S itself while P = S.
            self.gate = zero_linear(2 * dim, dim)
        elif combine == "sum":
            # sigmoid(0) = 1/2: half of each, as for the gate.
            self.share = nn.Parameter(torch.zeros(()))
        elif combine == "attention":
            self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
            for linear in (self.query, self.key):
                # While P = S, both keys are equal and both sources have half of the weight.
                nn.init.eye_(linear.weight)
        else:
            self.join = nn.Linear(2 * dim, dim, bias=False)
            with torch.no_grad():
                # [I 0]: S itself before step 1, whatever P is.
                self.join.weight.copy_(torch.cat((torch.eye(dim), torch.zeros(dim, dim)), dim=1))

    def forward(self, shared: Tensor) -> Tensor:
        """Return the combined states (n, length, dim)."""
        private = shared + self.private(shared)
        if self.combine == "gate":
            gate = self.gate(torch.cat((shared, private), dim=-1)).sigmoid()
            return gate * shared + (1 - gate) * private
        if self.combine == "sum":
            share = self.share.sigmoid()
            return share * shared + (1 - share) * private
        if self.combine == "attention":
            sources = torch.stack((shared, private), dim=-2)
            scores = (self.query(private).unsqueeze(-2) * self.key(sources)).sum(-1) / shared.shape[-1] ** 0.5
            return (scores.float().softmax(-1).to(shared.dtype).unsqueeze(-1) * sources).sum(-2)
        joined: Tensor = self.join(torch.cat((shared, private), dim=-1))
        return joined


class FeatureFusion(Architecture):
    """Share one encoder, and combine its last layer with private features of each task.

    S the shared states, ``P_t = S + W_2 relu(W_1 S)`` the private ones. `gate`: ``Z = g * S + (1 - g) * P_t`` with ``g = sigmoid(W [S; P_t]
    + b)`` for each coordinate; `sum`: one number for g; `attention`: a softmax over the two for each token with the query ``W_q P_t``
    and keys ``W_k``; `concat`: ``W [S; P_t]``. W_2 starts at zero, so that the states before step 1 are the encoder's up to rounding.

    Parameters of a task: 2 d m + m + d, and 2 d^2 + d for `gate`, 2 d^2 for `attention` and `concat`, 1 for `sum`.

    The survey's formulas were read; sizes and the residual form of P are choices made here.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        combine: Annotated[
            Literal["gate", "sum", "attention", "concat"],
            Field(description="how shared and private features are combined"),
        ] = "gate",
        width: Width = None,
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__()
        self.encoder = facts.encoder
        self.lr = of_heads(lr)
        m = width or max(1, facts.width // 4)
        self.fusions = facts.task_modules("fusion", lambda _: Fusion(facts.width, m, combine))

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the combined states as the last layer."""
        return hidden.with_last(self.fusions.of(task)(hidden.last))

    def parts(self) -> dict[str, Part]:
        """Return one part per task."""
        return self.fusions.parts("fusions", lr=self.lr)
