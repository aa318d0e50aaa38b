"""A memory that tasks share: Liu et al., EMNLP 2016, arXiv 1609.07222."""

from itertools import combinations
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.architectures.modules import zero_linear
from mtlcli.architectures.options import RateOfHeads, of_heads


class SharedMemory(Architecture):
    """Share one encoder and a memory, a matrix that every token of every task reads.

    ``Z = h + g W_o v`` with ``v = M' softmax(M W_q h / sqrt(d_M))`` and ``g = sigmoid(w [h; v] + b)``, one number for each token. W_o
    starts at zero, so that the states before step 1 are the encoder's. M starts at numbers from N(0, 1): with a deviation of 0.02, v is so
    small that W_o learns almost nothing in 200 steps, also at 1e-3.

    With `local` every pair of tasks has a memory of its own as well, which its two tasks read together with the global one.

    Parameters: K d_M, 2 d d_M and d + d_M + 1; K d_M for each pair with `local`, and d + d_M + 1 for each task with `gates: own`.

    Differences from the paper: its LSTM also writes to the memory while it reads a text; a memory that changed from text to text
    would make features depend on the order of batches, so it is learned by gradients alone. Sizes are choices made here.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        slots: Annotated[int, Field(ge=1, description="rows K of a memory")] = 32,
        width: Annotated[
            int | None, Field(ge=1, description="width d_M of a memory; by default that of the encoder / 4")
        ] = None,
        local: Annotated[bool, Field(description="add a memory for each pair of tasks")] = False,
        gates: Annotated[Literal["shared", "own"], Field(description="one gate, or one for each task")] = "shared",
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__()
        self.encoder = facts.encoder
        self.lr = of_heads(lr)
        d, m = facts.width, width or max(1, facts.width // 4)

        def memory() -> nn.Parameter:
            return nn.Parameter(torch.randn(slots, m))

        self.memory = memory()
        self.query, self.out = nn.Linear(d, m, bias=False), zero_linear(m, d, bias=False)
        self.pairs = list(combinations(range(len(facts.tasks)), 2)) if local else []
        self.local = nn.ParameterList(memory() for _ in self.pairs)
        self.gate = nn.Linear(d + m, 1) if gates == "shared" else None
        self.gates = facts.task_modules("gate", lambda _: nn.Linear(d + m, 1)) if gates == "own" else None

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the states with what they read as the last layer."""
        return hidden.with_last(hidden.last + self._read(task, hidden.last))

    def _read(self, task: int, states: Tensor) -> Tensor:
        of_pairs = [memory for memory, pair in zip(self.local, self.pairs, strict=True) if task in pair]
        # One softmax over the slots of all memories that the task reads.
        memory = torch.cat((self.memory, *of_pairs)).to(states.dtype)
        scores = self.query(states) @ memory.T / memory.shape[1] ** 0.5
        # No mask: a token reads the memory, not the other tokens of its text.
        value = scores.float().softmax(-1).to(states.dtype) @ memory
        gate: Any = self.gate if self.gates is None else self.gates.of(task)
        read: Tensor = gate(torch.cat((states, value), dim=-1)).sigmoid() * self.out(value)
        return read

    def parts(self) -> dict[str, Part]:
        """Return the tasks of local memories and own gates."""
        parts = {name: Part(lr=self.lr) for name in ("memory", "query", "out")}
        parts |= {f"local.{index}": Part(pair, self.lr) for index, pair in enumerate(self.pairs)}
        if self.gates is not None:
            return parts | self.gates.parts("gates", lr=self.lr)
        return parts | {"gate": Part(lr=self.lr)}
