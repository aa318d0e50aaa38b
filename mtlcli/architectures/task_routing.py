"""Routing between shared blocks and the task's own: Zaremoodi et al., ACL 2018, P18-2104, as the survey of Chen, Zhang and Yang (arXiv
2109.09138, section 2.1) writes it."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.adapters import Bottleneck
from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.architectures.modules import zero_linear
from mtlcli.architectures.options import RateOfHeads, Width, of_heads


class OwnBlock(nn.Module):
    """Hold a task's own block, and its part of the router's scores."""

    def __init__(self, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.block = Bottleneck(dim, width, activation="gelu")
        self.scores = nn.Parameter(torch.zeros(blocks))


class TaskRouting(Architecture):
    """Share one encoder and some blocks on its last layer, between which and a block of the task every token is routed.

    ``Z = h + sum_j r_j f_j(r_j h)`` over the shared blocks and the task's, ``f(x) = U gelu(D x + b) + c``, with weights ``r = softmax(W h
    + b_t)`` that scale what enters a block and what leaves it; `scale: output` only what leaves. U starts at zero, so that the states
    before step 1 are the encoder's.

    Parameters: (K + T) (2 d m + m + d) for K shared blocks and T tasks, d (K + 1) for W, and K + 1 for each task.

    The survey's formula was read; blocks and sizes are choices made here.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        blocks: Annotated[int, Field(ge=1, description="number K of shared blocks")] = 2,
        width: Width = None,
        scale: Annotated[
            Literal["both", "output"], Field(description="what the weights scale: input and output, or output")
        ] = "both",
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__()
        self.encoder, self.scale = facts.encoder, scale
        self.lr = of_heads(lr)
        d, m = facts.width, width or max(1, facts.width // 4)
        self.shared = nn.ModuleList(Bottleneck(d, m, activation="gelu") for _ in range(blocks))
        # The bias is that of each task, `OwnBlock.scores`. Zero: all blocks have the same weight before step 1.
        self.router = zero_linear(d, blocks + 1, bias=False)
        self.tasks = facts.task_modules("block", lambda _: OwnBlock(d, m, blocks + 1))

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the states with what the blocks add as the last layer."""
        own, states = self.tasks.of(task), hidden.last
        # (n, length, K + 1); the last weight is that of the task's own block.
        weights = (self.router(states) + own.scores).float().softmax(-1).to(states.dtype)
        added: list[Tensor] = []
        for number, block in enumerate((*self.shared, own.block)):
            weight = weights[..., number : number + 1]
            added.append(weight * block(weight * states if self.scale == "both" else states))
        return hidden.with_last(states + torch.stack(added).sum(0))

    def parts(self) -> dict[str, Part]:
        """Return one part per task: its block and scores."""
        return {"shared": Part(lr=self.lr), "router": Part(lr=self.lr)} | self.tasks.parts("tasks", lr=self.lr)
