"""Cyclic architecture: Zeng et al., AAAI 2020, arXiv 1912.09084."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.architectures.hierarchy import Order, check_order
from mtlcli.architectures.modules import zero_linear
from mtlcli.architectures.options import RateOfHeads, of_heads
from mtlcli.tasks.targets import Target


class Cyclic(Architecture):
    """Put the tasks in a ring, in which each reads the features of the one before it, round after round.

    With H the encoder's states and c the features that the task before has just computed, 0 at first:

    ``c_s = f_s([H; c])`` for each task s of `order`, K rounds, where ``f_s(x) = gelu(W_s x + b_s)``;
    ``Z_s = H + U_s sum_k c_s^k + v_s`` (`keep: sum`, as in the released program), or with the features of the last round alone
    (`keep: last`).

    The head of s reads Z_s. U and v start at 0, so that every task starts with the encoder's states. With one round this is a pipeline
    of features in one direction. A task outside `order` reads H.

    Parameters: ``T (f (d + f) + f + d f + d)`` for features of width f.

    Differences from the paper: its ring has two tasks in the released program, a classifier that passes on attention weights and an
    extractor that passes on scores, and a third one, a decoder, in the text, which was not read; here every task passes on features
    of the same form.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        rounds: Annotated[int, Field(ge=1, le=10, description="rounds through the ring")] = 2,
        order: Order = None,
        width: Annotated[
            int | None, Field(ge=1, description="width of the features; the default is that of the encoder / 4")
        ] = None,
        keep: Annotated[
            Literal["sum", "last"], Field(description="whether heads read the sum over the rounds or the last round")
        ] = "sum",
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__()
        self.check_tasks({"order": order}, facts.readable_targets)
        self.encoder = facts.encoder
        self.rounds, self.keep, self.names = rounds, keep, facts.names
        self.lr = of_heads(lr)
        self.order = tuple(facts.names.index(name) for name in order or facts.names)
        dim, self.width = facts.width, width or max(1, facts.width // 4)
        # A task outside the ring has modules without parameters, so that each task has an entry.
        self.layers = facts.task_modules(
            "layers",
            lambda t: (
                nn.Sequential(nn.Linear(dim + self.width, self.width), nn.GELU()) if t in self.order else nn.Identity()
            ),
        )
        self.outputs = facts.task_modules(
            "outputs", lambda t: zero_linear(self.width, dim) if t in self.order else nn.Identity()
        )

    @classmethod
    def check_tasks(cls, options: Mapping[str, Any], readable: Mapping[str, Target | None]) -> None:
        """Check `order`. No head runs, so any task can be in the ring."""
        check_order(options.get("order"), dict.fromkeys(readable, True), top=False)

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the states plus those that the ring adds for the task."""
        if task not in self.order:
            return hidden
        return hidden.with_last(hidden.last + self.outputs.of(task)(self.ring(task, hidden.last)))

    def ring(self, task: int, states: Tensor) -> Tensor:
        """Return the features (n, length, width) of a task after the last round, for states (n, length, dim)."""
        passed_on = states.new_zeros(*states.shape[:2], self.width)
        kept: list[Tensor] = []
        for number in range(self.rounds):
            for s in self.order:
                # Under autocast a layer returns half precision, while the states of some encoders are float32.
                passed_on = self.layers.of(s)(torch.cat([states, passed_on.to(states.dtype)], dim=-1))
                if s == task:
                    kept.append(passed_on)
                    if number + 1 == self.rounds:
                        # The layers of later tasks do not affect this task.
                        break
        return torch.stack(kept).sum(0) if self.keep == "sum" else kept[-1]

    def parts(self) -> dict[str, Part]:
        """Return the layer of each task, used by all tasks of the ring, in one round by those behind it; and its own output."""
        parts = {}
        for place, s in enumerate(self.order):
            # From the second round on, the features of every task reach those before it in the ring as well.
            users = self.order if self.rounds > 1 else self.order[place:]
            parts[f"layers.for_{self.names[s]}"] = Part(tuple(sorted(users)), self.lr)
            parts[f"outputs.for_{self.names[s]}"] = Part((s,), self.lr)
        return parts

    def notes(self) -> list[str]:
        """Return the ring."""
        return [f"the ring is {' -> '.join(self.names[s] for s in self.order)}, {self.rounds} rounds"]
