"""Progressive layered extraction: Tang et al., RecSys 2020, https://doi.org/10.1145/3383313.3412236."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import (
    Architecture,
    ArchitectureFacts,
    HiddenStates,
    Inputs,
    Part,
    TaskModules,
    run_encoder,
)
from mtlcli.architectures.experts import Expert, Gate, mixture
from mtlcli.architectures.mmoe import GateOn
from mtlcli.architectures.options import RateOfHeads, Width, of_heads


class Level(nn.Module):
    """One level: experts and a gate of each task, shared experts, and, below the last level, the gate of the shared stream."""

    def __init__(
        self, facts: ArchitectureFacts, number: int, *, own: int, shared: int, width: int, gate: str, last: bool
    ) -> None:
        super().__init__()
        self.own: TaskModules = facts.task_modules(
            f"experts {number}", lambda _: nn.ModuleList(Expert(facts.width, width) for _ in range(own))
        )
        self.gates: TaskModules = facts.task_modules(
            f"gate {number}", lambda _: Gate(facts.width, own + shared, on=gate)
        )
        self.shared = nn.ModuleList(Expert(facts.width, width) for _ in range(shared))
        self.shared_gate = None if last else Gate(facts.width, len(facts.tasks) * own + shared, on=gate)


class PLE(Architecture):
    """Share one encoder and some experts on its last layer, beside experts of each task, in one or more levels.

    In a level with the task's stream x_t and the shared stream x_0, which both start as the encoder's states h:

    * ``x_t' = sum_e g_te f_e`` over the task's experts, on x_t, and the shared ones, on x_0;
    * ``x_0' = sum_e g_0e f_e`` over the experts of all tasks, on their streams, and the shared ones; not in the last level.

    ``g_t = softmax(W_t x_t)`` and ``f(x) = x + U gelu(D x + b) + c`` (equations 3 to 7). One level is CGC. Gates start equal.

    With several levels the shared stream reads the experts of all tasks, so those below the last level are shared by all; only
    the last level's experts and gates, and the tasks' gates of every level as far as only their own stream reads them, are a
    task's own.

    Parameters per level: (shared + T own) (2 d m + m + d), d (own + shared) for each task's gate, and d (T own + shared) for the
    shared one.

    Differences from the paper: experts stand on an encoder and keep its states in a residual sum; sizes are choices made here.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        levels: Annotated[int, Field(ge=1, description="number of levels; 1 is CGC")] = 2,
        own_experts: Annotated[int, Field(ge=0, description="experts of each task in a level")] = 1,
        shared_experts: Annotated[int, Field(ge=1, description="experts of all tasks in a level")] = 1,
        width: Width = None,
        gate: GateOn = "text",
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__()
        self.encoder, self.count = facts.encoder, len(facts.tasks)
        self.lr = of_heads(lr)
        m = width or max(1, facts.width // 4)
        self.levels = nn.ModuleList(
            Level(facts, number, own=own_experts, shared=shared_experts, width=m, gate=gate, last=number == levels - 1)
            for number in range(levels)
        )

    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the task's stream after the last level as the last layer."""

        def weighed(gate: nn.Module, stream: Tensor, outputs: list[Tensor]) -> Tensor:
            return mixture(outputs, gate(stream, inputs.full_mask))

        # All streams start as the same tensor, which is replaced and never changed in place.
        streams, shared = dict.fromkeys(range(self.count), hidden.last), hidden.last
        for number, level in enumerate(self._levels()):
            # The streams of other tasks matter only to a later shared stream.
            needed = [task] if level.shared_gate is None else list(streams)
            own = {other: [expert(streams[other]) for expert in level.own.of(other)] for other in needed}
            common = [expert(shared) for expert in level.shared]
            if level.shared_gate is not None:
                every = [output for other in needed for output in own[other]]
                shared = weighed(level.shared_gate, shared, [*every, *common])
            # Other tasks' streams are read by the shared gate of the next level, which the last level does not have.
            onward = streams if number + 2 < len(self.levels) else [task]
            streams |= {
                other: weighed(level.gates.of(other), streams[other], [*own[other], *common]) for other in onward
            }
        return hidden.with_last(streams[task])

    def parts(self) -> dict[str, Part]:
        """Return the tasks of experts and gates: those that only their task's stream reads are private."""
        parts = {"levels": Part(lr=self.lr)}
        for number, level in enumerate(self._levels()):
            # Below the last level, the shared gate lets every task read all experts. With own_experts 0 there are none.
            if level.shared_gate is None and any(True for _ in level.own.parameters()):
                parts |= level.own.parts(f"levels.{number}.own", lr=self.lr)
            # The gates of other tasks matter only where a later shared gate reads their streams.
            if number + 2 >= len(self.levels):
                parts |= level.gates.parts(f"levels.{number}.gates", lr=self.lr)
        return parts
