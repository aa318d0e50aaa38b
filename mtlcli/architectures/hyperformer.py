"""HyperFormer: Karimi Mahabadi et al., ACL 2021, arXiv 2106.04489."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, Inputs
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.modules import TaskVector, normal_linear
from mtlcli.architectures.options import Backbone, Norms, Rate

PLACES = ("attention_out", "ffn_out")


class Writer(nn.Module):
    """Write the weights of an adapter, D (m, d) and U (d, m) with their biases, and its scale and shift, from a vector."""

    def __init__(self, size: int, dim: int, width: int) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        shapes = {
            "down": width * dim, "down_bias": width, "up": dim * width, "up_bias": dim, "scale": dim, "shift": dim
        }  # fmt: skip
        # A scale and a shift of zero, and so no change, before step 1.
        self.maps = nn.ModuleDict(
            {
                name: normal_linear(size, outputs, std=0.0 if name in ("scale", "shift") else 0.01)
                for name, outputs in shapes.items()
            }
        )

    def forward(self, written_from: Tensor, states: Tensor) -> Tensor:
        """Return the change (..., dim) of states by the adapter that a vector (size,) stands for."""
        weights = {name: linear(written_from) for name, linear in self.maps.items()}
        hidden = nn.functional.linear(states, weights["down"].view(self.width, self.dim), weights["down_bias"])
        outer = nn.functional.linear(
            nn.functional.gelu(hidden), weights["up"].view(self.dim, self.width), weights["up_bias"]
        )
        # A norm without parameters, because scale and shift are generated.
        return weights["scale"] * nn.functional.layer_norm(outer, (self.dim,)) + weights["shift"]


class HyperNetwork(nn.Module):
    """Map the vectors of task, layer and place to a vector I, from which a writer makes an adapter."""

    def __init__(
        self, dim: int, width: int, layers: int, *, embedding: int, hidden: int, projected: int, places_embedded: bool
    ) -> None:
        super().__init__()
        self.layers = nn.Parameter(torch.randn(layers, embedding))
        self.places = nn.Parameter(torch.randn(len(PLACES), embedding)) if places_embedded else None
        # The deviation of the authors' code.
        first = normal_linear((3 if places_embedded else 2) * embedding, hidden, std=0.01)
        second = normal_linear(hidden, projected, std=0.01)
        self.project = nn.Sequential(first, nn.ReLU(), second, nn.LayerNorm(projected))
        self.writers = nn.ModuleList(
            Writer(projected, dim, width) for _ in range(1 if places_embedded else len(PLACES))
        )

    def forward(self, task: Tensor, depth: int, place: int, states: Tensor) -> Tensor:
        """Return the change (..., dim) of states in one layer and place for a task's vector."""
        vectors = [task, self.layers[depth]] + ([] if self.places is None else [self.places[place]])
        # One writer serves both places where the vector of the place tells them apart.
        change: Tensor = self.writers[min(place, len(self.writers) - 1)](self.project(torch.cat(vectors)), states)
        return change


class HyperFormer(Modular):
    """Write the adapters of all tasks by one hypernetwork, from vectors of task, layer and place, in a frozen encoder.

    ``y + s * LN(U gelu(D y + b) + c) + t`` on the projected output of the attention and of the feed-forward network, with D, U, b, c,
    s and t linear in ``I = LN(W_2 relu(W_1 [z_task; z_layer; z_place]))`` (sections 2.2 and 2.3). With `plus: false` there is no vector
    of the place, but a set of maps for each (HyperFormer); with `plus: true` one for both (HyperFormer++). The maps to s and t start at
    zero, so that every hidden state is the encoder's before step 1.

    Parameters, p of I, k sets of maps: the projection, vectors, and k (p + 1) (2 d m + m + 3 d); d_z for each task.

    Differences from the paper: its code draws the maps to s and t with a deviation of 0.01 as all others, and trains T5. Width d / 32, the
    vectors' length, rate and trained norms are those of its configurations.
    """

    default_per = "both"

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        plus: Annotated[bool, Field(description="one hypernetwork for both places of a layer (HyperFormer++)")] = True,
        width: Annotated[
            int | None, Field(ge=1, description="width of the adapters; by default that of the encoder / 32")
        ] = None,
        embedding: Annotated[int, Field(ge=1, description="length of the vectors of tasks, layers and places")] = 64,
        hidden: Annotated[int, Field(ge=1, description="hidden width of the projection to I")] = 128,
        projected: Annotated[int, Field(ge=1, description="length of I")] = 64,
        backbone: Backbone = "frozen",
        norms: Norms = "trained",
        lr: Rate = 3e-4,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone, norms=norms)
        self.shared = HyperNetwork(
            facts.width, width or max(1, facts.width // 32), len(self.layers),
            embedding=embedding, hidden=hidden, projected=projected, places_embedded=plus,
        )  # fmt: skip
        self.tasks = facts.task_modules("task vector", lambda _: TaskVector(embedding))

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the written adapters as changes of outputs."""
        network: Any = self.shared
        tasks: Any = self.tasks

        def add(place: int, call: Call, output: Tensor) -> Tensor:
            changed: Tensor = output + network(tasks.of(task).vector, call.depth, place, output)
            return changed

        return {
            "attention_out": lambda call, output: add(0, call, output),
            "ffn_out": lambda call, output: add(1, call, output),
        }, {}
