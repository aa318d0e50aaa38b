"""Successive regularization: Hashimoto et al., EMNLP 2017, arXiv:1611.01587, equations 6 and 7; survey 3.4."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.plugin import EpochResult, SetupContext
from mtlcli.regularizers.base import Regularizer
from mtlcli.regularizers.snapshot import Snapshot, pull


class Successive(Regularizer):
    """Holds the shared parameters close to where the previous epoch left them, so that no task forgets the others.

    The penalty is delta ||theta - theta'||^2, theta' the shared parameters after the previous epoch, and adds
    2 delta (theta - theta') to the combined gradient, before clipping: L2, not decoupled decay. Nothing is added in the
    first epoch, nor to a parameter that no task of the step uses. The paper trains the tasks one after the other in each
    epoch and takes a snapshot as each of them ends; where the tasks are mixed, that is the end of the epoch. It also holds
    the classifiers of lower tasks (with delta 1e-2), which here learn all the time. The survey's 3.4 says "the previous
    training step", at which the penalty would hardly do anything.
    """

    cost = "a copy of the shared weights"

    def __init__(
        self,
        run: RunFacts,
        *,
        delta: Annotated[float, Field(ge=0, description="weight of the squared distance")] = 1e-3,
    ) -> None:
        super().__init__(run)
        self.delta = delta
        self.register_buffer("epochs", torch.tensor(0))
        self.register_buffer("due", torch.tensor(False))
        self.epochs: Tensor
        self.due: Tensor

    def setup(self, start: SetupContext) -> None:
        """Makes room for the copy."""
        self.snapshot = Snapshot(start.model.named_shared_parameters())

    def on_epoch(self, result: EpochResult) -> None:
        """The next step begins with the weights to hold on to."""
        self.epochs += 1
        self.due.fill_(True)

    def after_backward(self, model: MultiTaskModel) -> None:
        """Takes the snapshot at the first step of an epoch, before the optimizer moves, and pulls from then on."""
        if self.due:
            self.snapshot.follow(model, inertia=0.0)
            self.due.fill_(False)
        if self.epochs:
            pull(self.snapshot.pairs(model), 2 * self.delta)
