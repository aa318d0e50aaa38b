"""HyperGrid: Tay et al., ICLR 2021, arXiv 2007.05891, as the survey of Chen, Zhang and Yang (arXiv 2109.09138, section 2.3) writes it."""

from copy import deepcopy
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, Inputs
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.lora import weight_of
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.modules import TaskVector
from mtlcli.architectures.options import Backbone, RateOfEncoder
from mtlcli.errors import MtlError

FROM_INPUT = {
    "local-global": (True, False),
    "global-local": (False, True),
    "local": (True, True),
    "global": (False, False),
}
"""Whether rows and columns of a grid come from the input, by kind; else they are free vectors."""


class Grid(nn.Module):
    """Return grids ``2 sigmoid(r c')`` (..., rows, columns) for an input x (..., size): r and c are ``L x`` or free vectors."""

    def __init__(self, size: int, rows: int, columns: int, kind: str) -> None:
        super().__init__()
        rows_from_input, columns_from_input = FROM_INPUT[kind]
        # r is zero and c is not: a grid of ones before step 1, from which r learns.
        self.row = nn.Parameter(torch.zeros(rows, size) if rows_from_input else torch.zeros(rows))
        self.column = nn.Parameter(
            # Divided, so that c has a variance near 1 for a vector of the task from N(0, 1), like the free one.
            torch.randn(columns, size) / size**0.5 if columns_from_input else torch.randn(columns)
        )

    def forward(self, x: Tensor | None) -> Tensor:
        """Return the grids in float32; `global` needs no input."""
        row, column = (
            vector if vector.dim() == 1 or x is None else nn.functional.linear(x, vector)
            for vector in (self.row, self.column)
        )
        # In float32, because bfloat16 rounds factors near 1 to steps of 1 / 128.
        grid: Tensor = 2 * (row.float().unsqueeze(-1) * column.float().unsqueeze(-2)).sigmoid()
        return grid


class HyperGrid(Modular):
    """Scale the last feed-forward matrix of every layer block by block, with a grid that the task or the text decides.

    ``W' = G * W`` with ``G = 2 sigmoid(r c')`` (g_r, g_c), every entry for a block of (d / g_r, F / g_c) weights. With `kind:
    local-global` r = L x, x the task's vector z_t or the first state of the text, and c is a free vector; `global-local` the other way
    round, `local` both from x, `global` neither. r starts at zero, so that every hidden state is the encoder's before step 1.

    By task, the scaled matrices can be merged (`mtl export`).

    Parameters per layer: g_r d_x or g_r, and g_c d_x or g_c; d_x for each task's vector.

    Differences from the paper, of which the survey's formula was read: the factor 2, because a sigmoid starts at 1/2 and would halve
    the pretrained matrix; sizes of the grid and the vector; the paper's x is the text with the task's prompt in T5.
    """

    default_per = "both"

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        kind: Annotated[
            Literal["local-global", "global-local", "local", "global"],
            Field(description="what of a grid comes from the input: its rows, its columns, both or neither"),
        ] = "local-global",
        by: Annotated[
            Literal["task", "text"], Field(description="the input: the task, or the first state of the text")
        ] = "task",
        rows: Annotated[int, Field(ge=1, description="most rows of a grid; they divide the width")] = 16,
        columns: Annotated[int, Field(ge=1, description="most columns of a grid; they divide the inner width")] = 16,
        embedding: Annotated[int, Field(ge=1, description="length of the tasks' vectors")] = 64,
        backbone: Backbone = "trained",
        lr: RateOfEncoder = None,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone)
        self.by = by
        size = embedding if by == "task" else facts.width
        self.shared = nn.ModuleList()
        for layer in self.layers:
            # A grid has whole blocks, so rows and columns are divisors of the matrix's sizes.
            d, inner = weight_of(facts.encoder.get_submodule(layer.ffn_out)).shape
            self.shared.append(Grid(size, _divisor(d, rows), _divisor(inner, columns), kind))
        if by == "task" and kind != "global":
            self.tasks = facts.task_modules("task vector", lambda _: TaskVector(embedding))

    def _grid(self, task: int, depth: int, states: Tensor | None) -> Tensor:
        """Return the grid of a layer: (g_r, g_c) by task, else (n, g_r, g_c)."""
        grids: Any = self.shared
        if self.tasks is not None:
            states = self.tasks.of(task).vector
        grid: Tensor = grids[depth](states)
        return grid

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the difference that the grids make to the feed-forward network's output."""
        read: dict[int, Tensor] = {}
        # The first real token of each text: `argmax` returns the first of equal values.
        first = inputs.full_mask.int().argmax(1)

        def keep(call: Call, output: Tensor) -> Tensor:
            if call.index == 0:
                read[call.depth] = call.given[torch.arange(first.shape[0], device=first.device), first]
            return output

        def scale(call: Call, output: Tensor) -> Tensor:
            # The difference to a grid of ones is exactly zero before step 1.
            change = self._grid(task, call.depth, read.get(call.depth)) - 1
            weight, hidden = weight_of(call.module), call.given
            height, width = weight.shape[0] // change.shape[-2], weight.shape[1] // change.shape[-1]
            if change.dim() == 2:
                factors = change.repeat_interleave(height, 0).repeat_interleave(width, 1)
                return output + nn.functional.linear(hidden, weight * factors.to(weight))
            # (n, g_r, 1, F): the factors of the inner coordinates, for each block of rows.
            columns = change.repeat_interleave(width, -1).to(hidden).unsqueeze(2)
            # One block of rows at a time: a matrix for each text would take n times the weight.
            blocks = [
                nn.functional.linear(hidden * columns[:, row], weight[row * height : (row + 1) * height])
                for row in range(change.shape[-2])
            ]
            return output + torch.cat(blocks, dim=-1)

        return {"ffn_in": keep, "ffn_out": scale}, {}

    def merged(self, task: int | None) -> nn.Module:
        """Return the encoder with the scaled matrices of a task."""
        if self.by == "text":
            raise MtlError("scales weights by the text, which no plain encoder can do")
        self.check_mergeable(task)
        encoder = deepcopy(self.encoder)
        with torch.no_grad():
            for depth, layer in enumerate(self.layers):
                weight = weight_of(encoder.get_submodule(layer.ffn_out))
                grid = self._grid(task or 0, depth, None)
                factors = grid.repeat_interleave(weight.shape[0] // grid.shape[0], 0)
                weight.mul_(factors.repeat_interleave(weight.shape[1] // grid.shape[1], 1))
        return encoder


def _divisor(size: int, most: int) -> int:
    """Return the largest divisor of a size that is at most `most`."""
    return next(number for number in range(min(size, most), 0, -1) if size % number == 0)
