"""Soft parameter sharing: one encoder a task (survey 2; Duong et al., ACL 2015, P15-2139)."""

from copy import deepcopy

from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, run_encoder


class SoftSharing(Architecture):
    """Every task has an encoder of its own; the regularizer soft-sharing keeps their weights close to each other.

    All towers start from the same weights. The first task's is the `encoder` that a run folder keeps as `encoder/`; the
    others lie with the heads. It counts as shared, as an `encoder` always does, though the first task alone uses it: there
    is nothing here that gradient methods could combine. Memory, and what the optimizer remembers, grows by an encoder a task.
    """

    def __init__(self, facts: ArchitectureFacts) -> None:
        super().__init__()
        self.encoder = facts.encoder
        self.others = nn.ModuleList(deepcopy(facts.encoder) for _ in facts.tasks[1:])

    def forward(self, task: int, inputs: Inputs) -> HiddenStates:
        """The hidden states of the task's own encoder."""
        return run_encoder(self.encoder_of(task), inputs)

    def private_parameters(self, task: int) -> list[nn.Parameter]:
        """The task's tower; nothing for the first task."""
        return list(self.encoder_of(task).parameters()) if task else []

    def encoder_of(self, task: int) -> nn.Module:
        """The task's tower."""
        return self.others[task - 1] if task else self.encoder

    def towers(self) -> list[nn.Module]:
        """All of them, in the order of the tasks."""
        return [self.encoder, *self.others]
