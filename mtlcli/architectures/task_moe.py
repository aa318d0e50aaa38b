"""Task-level mixture of experts: Kudugunta et al., Findings of EMNLP 2021, arXiv 2110.03742; Gupta et al., 2022, arXiv 2204.07689."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.modules import TaskVector, normal_linear, zero_linear
from mtlcli.architectures.options import Backbone, Rate
from mtlcli.architectures.routing import balance, top_weights
from mtlcli.errors import MtlError


class AdapterExperts(nn.Module):
    """Return ``sum_e w_e (U_e gelu(D_e h + b_e) + c_e)`` of states h (..., dim), all experts in two products."""

    def __init__(self, dim: int, width: int, experts: int) -> None:
        super().__init__()
        # D differs between experts, and U is zero: the encoder's states before step 1.
        self.down = normal_linear(dim, experts * width)
        self.up = zero_linear(experts * width, dim, bias=False)
        self.biases = nn.Parameter(torch.zeros(experts, dim))

    def forward(self, states: Tensor, weights: Tensor) -> Tensor:
        """Return the change (..., dim) for weights (..., experts), which may have axes of length 1."""
        hidden = nn.functional.gelu(self.down(states)).unflatten(-1, (len(self.biases), -1))
        # The product with all U_e at once also sums over the experts, so their biases are weighted separately.
        change: Tensor = self.up((hidden * weights.unsqueeze(-1)).flatten(-2)) + weights @ self.biases
        return change


class TaskMoE(Modular):
    """Add experts that all tasks share to the feed-forward network of every layer, routed by the task, the token or both.

    ``y = ffn(h) + sum_e w_e (U_e gelu(D_e h + b_e) + c_e)`` with the k largest of ``p = softmax(W z_t)``, ``softmax(W h)`` or
    ``softmax(W [h; z_t])``, rescaled to a sum of 1 (k = 1: as they are, so that the router learns). U starts at zero, so that every
    hidden state is the encoder's before step 1.

    The balance loss ``balance * E sum_e f_e P_e`` (Fedus et al., JMLR 2022, arXiv 2101.03961, equation 4) keeps experts in use: f_e is the
    share of tokens that choose expert e, P_e its mean probability, over the real tokens of a batch and averaged over layers. By
    task it is over the tasks, of which only the batch's own gets a gradient. There is no limit of tokens per expert, so that a
    text's features do not depend on its batch.

    Parameters per layer: E (2 d m + m + d), and E d_z, E d or E (d + d_z) for the router; d_z for each task.

    Differences from the papers: they copy feed-forward networks as experts and train translation models; experts here are
    bottlenecks, which every encoder can hold. All experts are computed and those not chosen weigh 0.
    """

    default_per = "both"

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        by: Annotated[Literal["task", "token", "both"], Field(description="what the router reads")] = "task",
        experts: Annotated[int, Field(ge=1, description="number of experts E in a layer")] = 4,
        top: Annotated[int, Field(ge=1, description="number of experts k that a token or task uses")] = 2,
        width: Annotated[
            int | None, Field(ge=1, description="inner width m of an expert; by default that of the encoder / 16")
        ] = None,
        embedding: Annotated[int, Field(ge=1, description="length of the tasks' vectors z_t")] = 64,
        balance: Annotated[float, Field(ge=0, description="weight of the balance loss")] = 0.01,
        backbone: Backbone = "frozen",
        lr: Rate = 1e-4,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone)
        if top > experts:
            raise MtlError(f"architecture.top: found {top}; expected at most the {experts} experts")
        self.by, self.top, self.balance, self.count = by, top, balance, len(facts.tasks)
        # Shares of the tokens of a batch.
        self.coupling = "batch" if balance and by != "task" else "rows"
        read = {"task": embedding, "token": facts.width, "both": facts.width + embedding}[by]
        routers = nn.ModuleList(normal_linear(read, experts, bias=False) for _ in self.layers)
        m = width or max(1, facts.width // 16)
        self.shared = nn.ModuleDict(
            {
                "experts": nn.ModuleList(AdapterExperts(facts.width, m, experts) for _ in self.layers),
                "routers": routers,
            }
        )
        if by != "token":
            self.tasks = facts.task_modules("task vector", lambda _: TaskVector(embedding))

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the hidden states of the encoder with experts, and the balance loss in training."""
        terms: list[Tensor] = []
        hidden = self.run(inputs, *self._changes(task, inputs, terms))
        if not self.training or not self.balance or not terms:
            return hidden
        extra = self.balance * torch.stack(terms).mean()
        return HiddenStates(hidden.last, hidden.layers, extra.expand(len(hidden.last)))

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the experts as additions to the feed-forward network's output."""
        return self._changes(task, inputs, [])

    def _changes(self, task: int, inputs: Inputs, terms: list[Tensor]) -> tuple[Outputs, PlaceInputs]:
        """Return the changes; each layer adds its balance term to `terms`."""
        read: dict[int, Tensor] = {}
        modules: Any = self.shared

        def keep(call: Call, output: Tensor) -> Tensor:
            if call.index == 0:
                read[call.depth] = call.given
            return output

        def add(call: Call, output: Tensor) -> Tensor:
            states = read[call.depth]
            probabilities = self._probabilities(task, call.depth, states)
            weights = top_weights(probabilities, self.top)
            terms.append(self._balance(task, call.depth, probabilities, inputs))
            changed: Tensor = output + modules["experts"][call.depth](states, weights.to(states.dtype))
            return changed

        return {"ffn_in": keep, "ffn_out": add}, {}

    def _probabilities(self, task: int, depth: int, states: Tensor | None) -> Tensor:
        """Return the router's probabilities, float32: (1, 1, experts) by task, else (n, length, experts)."""
        modules: Any = self.shared
        vector = None if self.tasks is None else self.tasks.of(task).vector
        if self.by == "task" or states is None:
            if vector is None:
                raise TypeError("a router that reads tokens needs their states")
            # One choice for all texts and tokens, which broadcasts.
            read = vector.view(1, 1, -1)
        elif vector is None:
            read = states
        else:
            read = torch.cat((states, vector.to(states.dtype).expand(*states.shape[:-1], -1)), dim=-1)
        probabilities: Tensor = modules["routers"][depth](read).float().softmax(-1)
        return probabilities

    def _balance(self, task: int, depth: int, probabilities: Tensor, inputs: Inputs) -> Tensor:
        if self.by != "task":
            return balance(probabilities[inputs.full_mask], self.top)
        # One batch has one task, whose choice would always be out of balance: the tasks are balanced.
        rows = [
            # The vectors of other tasks belong to them, so this task's loss must not reach them.
            (probabilities if other == task else self._probabilities(other, depth, None).detach()).view(1, -1)
            for other in range(self.count)
        ]
        return balance(torch.cat(rows), self.top)
