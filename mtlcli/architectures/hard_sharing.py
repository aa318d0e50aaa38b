"""Hard parameter sharing: Caruana, Machine Learning 1997."""

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, run_encoder


class HardSharing(Architecture):
    """Use one encoder for all tasks; only the heads are task-specific."""

    task_independent = True

    def __init__(self, facts: ArchitectureFacts) -> None:
        super().__init__()
        self.encoder = facts.encoder

    def forward(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)
