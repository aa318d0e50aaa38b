"""Leaky units (LK-MTL): Xiao et al., COLING 2018, C18-1175, as section 2.1 of the survey of Chen, Zhang and Yang, arXiv 2109.09138, writes
them."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.adapters import Bottleneck
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, Part, TaskModules
from mtlcli.architectures.options import RateOfHeads, Width, of_heads
from mtlcli.architectures.towers import Towers
from mtlcli.errors import MtlError


class LeakyUnit(nn.Module):
    """Let features of other tasks leak into those of one, as a gated recurrent unit lets in its input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reset, self.keep = nn.Linear(2 * dim, dim, bias=False), nn.Linear(2 * dim, dim)
        self.own, self.other = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        for linear in (self.reset, self.keep, self.own, self.other):
            nn.init.normal_(linear.weight, std=0.02)
        # A task's own features are mostly kept at first: sigmoid(2) = .88.
        nn.init.constant_(self.keep.bias, 2.0)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Return features (..., dim) of a task after those of another one leaked into them."""
        pair = torch.cat((own, other), dim=-1)
        reset, keep = self.reset(pair).sigmoid(), self.keep(pair).sigmoid()
        leaked = torch.tanh(self.own(own) + self.other(reset * other))
        return keep * own + (1 - keep) * leaked


class LeakyUnits(Towers):
    """Compute features of all tasks for every text, and let those of the others leak into a task's through a gated unit.

    For tasks m and n, ``r_mn = sigmoid(W_r [h_m; h_n])``, ``h~_mn = tanh(U h_m + W (r_mn * h_n))`` and ``z_mn = sigmoid(W_z [h_m; h_n] +
    b)``; with M tasks the features of m are the mean over n of ``z_mn * h_m + (1 - z_mn) * h~_mn``. One unit serves all pairs. A task's
    features h are ``H^N + W_2 relu(W_1 H^N)``, or with `layers` those of its own copies of the encoder's last layers, between which
    the unit stands after every layer (`units: every`) or after the last.

    Parameters: ``6 d^2 + d`` for the unit (each of `layers` with `units: every`), ``2 d m + m + d`` for each task, or the copies of its
    layers for each further task. All tasks use all of these. With one task, its features alone remain.

    Differences from the paper: the survey's formulas were read. For more than two tasks, the survey's sum over pairs includes n = m, which
    has no second task; `divide: survey` takes z_mm = 1 and divides by M, `pairs` leaves it out and divides by M - 1, which is the unit of
    two tasks for M = 2. The bias b, 2 at first, is added here.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        layers: Annotated[
            int,
            Field(ge=0, description="last layers of which every task has its own copy; 0: a small layer of each task"),
        ] = 0,
        units: Annotated[
            Literal["last", "every"], Field(description="after which of the copied layers features leak")
        ] = "last",
        divide: Annotated[
            Literal["pairs", "survey"], Field(description="whether a task counts itself among the pairs")
        ] = "pairs",
        width: Width = None,
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__(facts, layers)
        # With one copied layer or none, the first unit is the last.
        self.divide, self.every = divide, units == "every" and layers > 1
        self.lr = of_heads(lr)
        m = width or max(1, facts.width // 4)
        self.private: TaskModules | None = None
        if not layers:
            self.private = facts.task_modules("private", lambda _: Bottleneck(facts.width, m, activation="relu"))
        # Named by the number of their layer; without copied layers one unit stands on top of the encoder.
        names = [name.split(".")[-1] for name in (self.copied if self.every else self.copied[-1:])] or ["top"]
        self.units = nn.ModuleDict({name: LeakyUnit(facts.width) for name in names} if self.count > 1 else {})

    def leak(self, unit: LeakyUnit, task: int, features: list[Tensor]) -> Tensor:
        """Return the features (n, length, dim) of a task, from those of all tasks before."""
        features_of_task = features[task]
        pairs = [unit(features_of_task, other) for index, other in enumerate(features) if index != task]
        if self.divide == "survey":
            # z_mm = 1: the pair of a task with itself is its own features.
            pairs.append(features_of_task)
        return torch.stack(pairs).mean(0)

    def meet(self, index: int, states: list[Tensor]) -> list[Tensor]:
        """Return the states of all tasks after a copied layer, if a unit stands there below the last one."""
        name = self.copied[index].split(".")[-1]
        # The last unit belongs to `features`, which needs it for one task alone.
        if index == len(self.copied) - 1 or name not in self.units:
            return states
        unit: LeakyUnit = self.units[name]  # type: ignore[assignment]
        return [self.leak(unit, task, states) for task in range(self.count)]

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the task's features with what leaks from the others, as the last layer."""
        states = self.own(task, hidden)
        if self.private is None:
            # `meet` leaves the last layer as it is, so these are the features before the last unit.
            features = list(self.of_tasks(hidden.last))
        else:
            features = [hidden.last + self.private.of(other)(hidden.last) for other in range(self.count)]
        if not self.units:
            return states.with_last(features[task])
        unit: LeakyUnit = list(self.units.values())[-1]  # type: ignore[assignment]
        return states.with_last(self.leak(unit, task, features))

    def below(self) -> tuple[nn.Module, ...]:
        """Return the encoder, the copies, and the units between them."""
        # The last unit is part of `features`, so that states can be cached while it is trained.
        return (*super().below(), *list(self.units.values())[:-1])

    def parts(self) -> dict[str, Part]:
        """Return units and private layers, which all tasks use, with their learning rate."""
        # A prefix without parameters is not a part: one task has no units.
        parts = {"units": Part(lr=self.lr)} if self.units else {}
        return parts | ({} if self.private is None else {"private": Part(lr=self.lr)})

    def merged(self, task: int | None) -> nn.Module:
        """Raise: no encoder reads the features of others."""
        raise MtlError("lets features of all tasks leak into each other, which no plain encoder can do")
