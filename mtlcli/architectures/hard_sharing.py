"""Hard parameter sharing: one encoder for all tasks, one head each (Caruana 1997; survey 2.1)."""

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, run_encoder


class HardSharing(Architecture):
    """Every task reads the same encoder; nothing but the heads is a task's own."""

    def __init__(self, facts: ArchitectureFacts) -> None:
        super().__init__()
        self.encoder = facts.encoder

    def forward(self, task: int, inputs: Inputs) -> HiddenStates:
        """The encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)
