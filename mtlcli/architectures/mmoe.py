"""Multi-gate mixture of experts: Ma et al., KDD 2018, https://doi.org/10.1145/3219819.3220007."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.architectures.experts import Expert, Gate, mixture
from mtlcli.architectures.options import RateOfHeads, Width, of_heads

GateOn = Annotated[
    Literal["text", "token"],
    Field(description="whether a gate reads the mean state of the text, or each token's state"),
]


class MMoE(Architecture):
    """Share one encoder and several experts on its last layer, which a gate of each task weighs.

    ``z_t = sum_e g_te f_e(h)`` with ``g_t = softmax(W_t x)`` (equations 6 and 7), x the mean state of the text or the token's state,
    and experts ``f_e(h) = h + U_e gelu(D_e h + b) + c``. All experts weigh the same before step 1.

    Parameters: E (2 d m + m + d) for E experts of width m, and E d for each task's gate.

    Differences from the paper: experts stand on an encoder and keep its states in a residual sum; the sizes, and the dropout of
    gates against a gate that settles on one expert, are choices made here.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        experts: Annotated[int, Field(ge=1, description="number of experts")] = 4,
        width: Width = None,
        gate: GateOn = "text",
        gate_dropout: Annotated[float, Field(ge=0, lt=1, description="dropout of the gates' weights")] = 0.1,
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__()
        self.encoder = facts.encoder
        self.lr = of_heads(lr)
        self.experts = nn.ModuleList(Expert(facts.width, width or max(1, facts.width // 4)) for _ in range(experts))
        self.gates = facts.task_modules("gates", lambda _: Gate(facts.width, experts, on=gate, dropout=gate_dropout))

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the mixture of the experts' states as the last layer."""
        # On the last layer alone, so that all tasks share a pass and states of a frozen encoder can be cached.
        weights = self.gates.of(task)(hidden.last, inputs.full_mask)
        return hidden.with_last(mixture([expert(hidden.last) for expert in self.experts], weights))

    def parts(self) -> dict[str, Part]:
        """Return one part per task: its gate."""
        return {"experts": Part(lr=self.lr)} | self.gates.parts("gates", lr=self.lr)
