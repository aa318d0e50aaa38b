"""LoRA: Hu et al., ICLR 2022, arXiv 2106.09685; DoRA: Liu et al., ICML 2024, arXiv 2402.09353."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, Inputs
from mtlcli.architectures.hooks import Call, Place, changed
from mtlcli.architectures.layers import EncoderLayer, run_short_text
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.options import Backbone, Norms, Per, Rate
from mtlcli.architectures.peft_files import PeftChange, PeftLora, read
from mtlcli.errors import MtlError

Projection = Literal["query", "key", "value", "attention-out", "ffn-in", "ffn-out", "all"]

ATTENTION = ("query", "key", "value")
"""The projections of the attention's input, in the order of their calls, or of their rows in one module for all three."""


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight of a projection as (out, in); that of GPT-2's `Conv1D` is stored transposed."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError("a projection has a weight")
    return weight if isinstance(module, nn.Linear) else weight.T


def contiguous_thirds(encoder: nn.Module, layers: Sequence[EncoderLayer]) -> bool:
    """Return whether the rows of one projection for query, key and value stand in this order.

    They do if the attention returns zero without the last third, the value.
    """
    # The context is a weighted sum of values, so it is zero if the last third holds all of them.
    contexts: list[Tensor] = []
    if weight_of(encoder.get_submodule(layers[0].attention_in[0])).shape[0] % 3:
        return False

    def without_last_third(call: Call, output: Tensor) -> Tensor:
        first, second, _ = output.chunk(3, dim=-1)
        return torch.cat((first, second, torch.zeros_like(first)), dim=-1)

    def keep(call: Call) -> Tensor:
        contexts.append(call.given)
        return call.given

    with changed(encoder, layers, outputs={"attention_in": without_last_third}, inputs={"attention_out": keep}):
        run_short_text(encoder)
    return not any(bool(context.any()) for context in contexts)


class LowRank(nn.Module):
    """Change rows of a projection y = W x + b by ``s B A x``, with A (rank, in) and B (out, rank).

    With `magnitude` (DoRA, equation 5) the changed rows are rescaled: ``m (W + s B A) / c`` with c the norm of each row of
    ``W + s B A``, whose gradient is not followed, and m the learned magnitudes, which start as the norms of the rows of W.
    """

    def __init__(self, weight: Tensor, rank: int, *, scale: float, dropout: float, magnitude: bool) -> None:
        super().__init__()
        self.scale, self.dropout = scale, nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(rank, weight.shape[1]))
        # One factor alone is zero: with two, neither would have a gradient.
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))
        # Kaiming uniform with a = sqrt(5): U(-1 / sqrt(in), 1 / sqrt(in)).
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        # Equal to c before step 1, so that the factors m / c are 1.
        self.magnitude = nn.Parameter(weight.detach().norm(dim=1)) if magnitude else None

    def change_of_weight(self, weight: Tensor) -> Tensor:
        """Return the change (out, in) of rows of a weight."""
        change = self.scale * (self.b @ self.a)
        if self.magnitude is None:
            return change
        return self._factors(weight).unsqueeze(1) * (weight + change) - weight

    def forward(self, given: Tensor, output: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the change (..., out) of an output W x + b, for x (..., in)."""
        change = self.scale * nn.functional.linear(nn.functional.linear(self.dropout(given), self.a), self.b)
        if self.magnitude is None:
            return change
        factors = self._factors(weight)
        # W x from the output, which is cheaper than a second product; DoRA does not rescale the bias.
        plain = output if bias is None else output - bias
        # The difference to W x, since the caller adds it to the output: m / c (W x + s B A x) - W x.
        return (factors - 1) * plain + factors * change

    def _factors(self, weight: Tensor) -> Tensor:
        if self.magnitude is None:
            raise TypeError("only DoRA has magnitudes")
        # Rows are outputs: one length for each. Detached, which saves the memory of the norm's graph.
        return self.magnitude / (weight + self.scale * (self.b @ self.a)).detach().norm(dim=1)


class LoRA(Modular):
    """Add a change of low rank to projections of a frozen encoder, for each task or for all.

    ``y = W x + b + s B A x`` with A (r, in), B (out, r), s = alpha / r, or alpha / sqrt(r) with `rank_stabilized`. `per: both` adds
    the shared change and the task's. B starts at zero, so that every hidden state is the encoder's before step 1; A is Kaiming
    uniform. `dora` learns the length of each row of the weight apart from its direction.

    A merged encoder has W + s B A in place of W (`mtl export`). Adapters of the package peft can be read (`peft`) and written (`mtl
    export --format peft`).

    Parameters per set: r (in + out) for each projection: 4 d r N for query and value of N layers, + out with `dora`.

    Rank 8, alpha 16 and query and value are the paper's for RoBERTa (table 9); its learning rate there is 5e-4. The dropout of the
    low-rank input is 0 as in its code for these tasks.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        rank: Annotated[int, Field(ge=1, description="rank r of the change")] = 8,
        alpha: Annotated[float, Field(gt=0, description="the change is scaled by alpha / rank")] = 16.0,
        on: Annotated[
            list[Projection],
            BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
            Field(min_length=1, description="projections to change; all: every one of a layer"),
        ] = ["query", "value"],  # noqa: B006
        dropout: Annotated[float, Field(ge=0, lt=1, description="dropout of the input of the change")] = 0.0,
        rank_stabilized: Annotated[bool, Field(description="scale by alpha / sqrt(rank) instead")] = False,
        dora: Annotated[bool, Field(description="learn the length of each row of a weight by itself (DoRA)")] = False,
        per: Per = "task",
        backbone: Backbone = "frozen",
        norms: Norms = "frozen",
        peft: Annotated[
            dict[str, str],
            Field(
                description="folders that peft saved, to start from: {sst: FOLDER} by task, {shared: FOLDER} for all"
            ),
        ] = {},  # noqa: B006
        lr: Rate = 5e-4,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone, norms=norms)
        self.peft, self.alpha, self.rank, self.rank_stabilized = dict(peft), alpha, rank, rank_stabilized
        if dora and per == "both":
            # The magnitudes of two sets would both replace the length of a row.
            raise MtlError(
                "architecture.per: DoRA has one length for each row, so `both` is not possible; use task or shared"
            )
        self.on: tuple[str, ...] = (
            (*ATTENTION, "attention-out", "ffn-in", "ffn-out") if "all" in on else tuple(dict.fromkeys(on))
        )
        self.fused = len(self.layers[0].attention_in) == 1
        # A module for all three is changed as a whole, or by thirds of its rows where their order allows it.
        if self.fused and set(self.on) & set(ATTENTION):
            if set(ATTENTION) <= set(self.on):
                # One change of the whole module, as for any other projection.
                self.on = ("attention-in", *(name for name in self.on if name not in ATTENTION))
            elif not contiguous_thirds(self.encoder, self.layers):
                raise MtlError(
                    "architecture.on: this encoder has one projection for query, key and value, whose rows are not in this order; "
                    "use on: [all], or all three"
                )
        scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)

        def changes() -> nn.ModuleDict:
            return nn.ModuleDict(
                {
                    name: nn.ModuleList(
                        LowRank(self._rows(weight_of(module), name), rank, scale=scale, dropout=dropout, magnitude=dora)
                        for module in self._projections(name)
                    )
                    for name in self._names()
                }
            )

        self.add_modules(facts, per, changes)

    def _names(self) -> list[str]:
        """Return the keys of the changes: a place, or `ffn-in 1` for the second of two modules."""
        several = len(self.layers[0].ffn_in)
        names = []
        for name in self.on:
            names += [name] if name != "ffn-in" or several == 1 else [f"ffn-in {index}" for index in range(several)]
        return names

    def _place(self, name: str) -> tuple[Place, int]:
        """Return the place of a change in a layer, and the number of its module there."""
        if name in ATTENTION:
            return "attention_in", 0 if self.fused else ATTENTION.index(name)
        kind, _, index = name.partition(" ")
        places: dict[str, Place] = {
            "attention-in": "attention_in", "attention-out": "attention_out", "ffn-in": "ffn_in", "ffn-out": "ffn_out"
        }  # fmt: skip
        return places[kind], int(index or 0)

    def _projections(self, name: str) -> list[nn.Module]:
        """Return the module that a change is for in each layer."""
        place, index = self._place(name)
        names = [getattr(layer, place) for layer in self.layers]
        return [self.encoder.get_submodule(one if isinstance(one, str) else one[index]) for one in names]

    def _rows(self, weight: Tensor, name: str) -> Tensor:
        """Return the rows of a weight, or the coordinates of a bias, that a change is for."""
        return weight.chunk(3)[ATTENTION.index(name)] if self.fused and name in ATTENTION else weight

    def start(self, tensors_of: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Load the folders of peft that the options name."""
        sets: dict[str, Any] = {} if self.shared is None else {"shared": self.shared}
        if self.tasks is not None:
            sets |= {name: self.tasks.of(index) for index, name in enumerate(self.tasks.tasks)}
        for name, folder in self.peft.items():
            if name not in sets:
                raise MtlError(f"architecture.peft: found {name}; expected one of {', '.join(sets)}")
            self._load_peft(sets[name], Path(folder))

    def _load_peft(self, modules: Any, folder: Path) -> None:
        """Load an adapter of peft into one set of changes, whose scale stays as the options say."""
        self.check_mergeable(0)
        lora = read(folder)
        targets = dict(self._by_module(modules))
        # A module that is left out would silently keep its initial change.
        if set(lora.changes) != set(targets):
            missing, more = sorted(set(targets) - set(lora.changes)), sorted(set(lora.changes) - set(targets))
            problem = (
                f"has no change of {missing[0]}" if missing else f"changes {more[0]}, which architecture.on leaves out"
            )
            raise MtlError(f"{folder}: {problem}; set architecture.on to the projections of the adapter")
        for module, low_rank in targets.items():
            change = lora.changes[module]
            if change.a.shape != low_rank.a.shape or change.b.shape != low_rank.b.shape:
                raise MtlError(
                    f"{folder}: {module} has rank {len(change.a)} and {change.a.shape[1]} inputs; expected rank {len(low_rank.a)} "
                    f"(architecture.rank) and {low_rank.a.shape[1]} inputs"
                )
            if (change.magnitude is None) != (low_rank.magnitude is None):
                raise MtlError(
                    f"{folder}: is {'no ' if change.magnitude is None else ''}DoRA; set architecture.dora as it was"
                )
            with torch.no_grad():
                low_rank.a.copy_(change.a)
                # B absorbs the adapter's scale, because the module's own follows from the options: s B A stays equal.
                low_rank.b.copy_(change.b * (lora.scale / low_rank.scale))
                if low_rank.magnitude is not None and change.magnitude is not None:
                    low_rank.magnitude.copy_(change.magnitude)

    def to_peft(self, task: int | None) -> PeftLora:
        """Return the changes for a task, or for all tasks, as the package peft stores them."""
        self.check_mergeable(task)
        if self.shared is not None and self.tasks is not None:
            raise MtlError("adds a shared change and one of the task, of which a folder of peft holds one")
        low_ranks = self._by_module(self.modules_of(task or 0)[0])
        return PeftLora(
            {module: PeftChange(low_rank.a, low_rank.b, low_rank.magnitude) for module, low_rank in low_ranks},
            self.alpha,
            self.rank,
            self.rank_stabilized,
            low_ranks[0][1].dropout.p,
            transposed=not isinstance(self.encoder.get_submodule(low_ranks[0][0]), nn.Linear),
        )

    def _by_module(self, modules: Any) -> list[tuple[str, LowRank]]:
        """Return the changes of a set with the names of the modules that they change. Raise MtlError if one is for some rows."""
        pairs = []
        for name in self._names():
            place, index = self._place(name)
            if self.fused and name in ATTENTION:
                raise MtlError(
                    "changes some rows of the module for query, key and value, which peft cannot; use on: [all]"
                )
            for depth, layer in enumerate(self.layers):
                module_names = getattr(layer, place)
                pairs.append(
                    (module_names if isinstance(module_names, str) else module_names[index], modules[name][depth])
                )
        return pairs

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the changes of the projections' outputs."""
        sets = self.modules_of(task)
        # Several changes can have one module: query and value in a module for all three.
        by_module: dict[tuple[Place, int], list[str]] = {}
        for name in self._names():
            by_module.setdefault(self._place(name), []).append(name)

        def change(place: Place, call: Call, output: Tensor) -> Tensor:
            for name in by_module.get((place, call.index), ()):
                output = output + self._whole(name, self._change(sets, name, call, output), output)
            return output

        def at(place: Place) -> Any:
            return lambda call, output: change(place, call, output)

        return {place: at(place) for place, _ in by_module}, {}

    def _change(self, sets: list[Any], name: str, call: Call, output: Tensor) -> Tensor:
        """Return the sum of the changes of one projection's output."""
        weight, bias = weight_of(call.module), getattr(call.module, "bias", None)
        output = self._columns(output, name)
        arguments = (call.given, output, self._rows(weight, name), None if bias is None else self._rows(bias, name))
        total: Tensor = sets[0][name][call.depth](*arguments)
        for modules in sets[1:]:
            total = total + modules[name][call.depth](*arguments)
        return total

    def _columns(self, output: Tensor, name: str) -> Tensor:
        return output.chunk(3, dim=-1)[ATTENTION.index(name)] if self.fused and name in ATTENTION else output

    def _whole(self, name: str, change: Tensor, output: Tensor) -> Tensor:
        """Return a change as wide as the module's output."""
        if change.shape[-1] == output.shape[-1]:
            return change
        # Zeros for the rows of the other two, so that the sum has the width of the output.
        start = ATTENTION.index(name) * change.shape[-1]
        return nn.functional.pad(change, (start, output.shape[-1] - start - change.shape[-1]))

    def merged(self, task: int | None) -> nn.Module:
        """Return the encoder with W + s B A in place of each W."""
        self.check_mergeable(task)
        sets = self.modules_of(task or 0)
        encoder = deepcopy(self.encoder)
        with torch.no_grad():
            for name in self._names():
                place, index = self._place(name)
                for depth, layer in enumerate(self.layers):
                    module_names = getattr(layer, place)
                    module_name = module_names if isinstance(module_names, str) else module_names[index]
                    # A view of the copy's weight, which `+=` below changes in place.
                    rows = self._rows(weight_of(encoder.get_submodule(module_name)), name)
                    # DoRA needs W itself, and the copy's weight changes in this loop.
                    plain = self._rows(weight_of(self.encoder.get_submodule(module_name)), name)
                    for modules in sets:
                        rows += modules[name][depth].change_of_weight(plain)
        return encoder
