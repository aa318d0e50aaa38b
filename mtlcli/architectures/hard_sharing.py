"""Hard parameter sharing: Caruana, Machine Learning 1997."""

from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, run_encoder


class HardSharing(Architecture):
    """Use one encoder for all tasks; only the heads are task-specific."""

    def __init__(self, facts: ArchitectureFacts) -> None:
        super().__init__()
        self.encoder = facts.encoder

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def merged(self, task: int | None) -> nn.Module:
        """Return the encoder."""
        return self.encoder
