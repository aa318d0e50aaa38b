"""Soft parameter sharing: Duong et al., ACL 2015, P15-2139."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.errors import MtlError


class SoftSharing(Architecture):
    """Give every task a separate encoder, which the regularizer soft-sharing keeps close to the others.

    All towers start from the same weights. The first task's tower is the `encoder` that a run folder stores as `encoder/`;
    the others are stored with the heads. That tower counts as shared, as `encoder` always does, although only the first
    task uses it, so gradient regularizers have nothing to combine. Memory and optimizer state grow by one encoder per task.
    """

    def __init__(self, facts: ArchitectureFacts) -> None:
        super().__init__()
        self.encoder = facts.encoder
        # Copies, not new models: the towers have to start alike for their distance to mean anything.
        self.others = nn.ModuleList(deepcopy(facts.encoder) for _ in facts.tasks[1:])

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the hidden states of the task's tower."""
        return run_encoder(self.encoder_of(task), inputs)

    def parts(self) -> dict[str, Part]:
        """Return one part per tower besides the first."""
        # A part inside `encoder` cannot be private, so the first task's tower has none.
        return {f"others.{index}": Part((index + 1,)) for index in range(len(self.others))}

    def below(self) -> tuple[nn.Module, ...]:
        """Return all towers."""
        return (self,)

    def merged(self, task: int | None) -> nn.Module:
        """Return the task's tower."""
        if task is None:
            raise MtlError("has one encoder per task; export one task")
        return self.encoder_of(task)

    @classmethod
    def compares(cls, options: Mapping[str, Any]) -> bool:
        """Return False: separate encoders have no parameters in common."""
        return False

    def encoder_of(self, task: int) -> nn.Module:
        """Return the task's tower."""
        return self.others[task - 1] if task else self.encoder

    def towers(self) -> list[nn.Module]:
        """Return all towers in the order of the tasks."""
        return [self.encoder, *self.others]
