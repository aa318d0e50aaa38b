"""Successive regularization: Hashimoto et al., EMNLP 2017, arXiv:1611.01587, equations 6 and 7."""

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
    """Keep the shared parameters close to their values at the end of the previous epoch, so that tasks do not forget each
    other.

    The penalty is ``delta ||theta - theta'||^2``, where theta' are the shared parameters after the previous epoch. ``2
    delta (theta - theta')`` is added to the combined gradient, before clipping (L2, not decoupled decay). Nothing is added
    in the first epoch, nor to a parameter that no task of the step uses.

    Differences from the paper:
      * it trains the tasks one after another in each epoch and takes a snapshot at the end of each; if tasks are mixed,
        that is the end of the epoch;
      * it also holds the classifiers of lower tasks (with delta 1e-2), which are trained throughout here.

    Differences from the survey (Chen, Zhang and Yang, 2024, section 3.4): it uses the weights before "the previous training
    step", which would make the penalty nearly 0.
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
        # Buffers, because a run can stop between the end of an epoch and the next step.
        self.register_buffer("epochs", torch.tensor(0))
        self.register_buffer("due", torch.tensor(False))
        self.epochs: Tensor
        self.due: Tensor

    def setup(self, context: SetupContext) -> None:
        """Allocate the copy."""
        self.snapshot = Snapshot(context.model.named_shared_parameters())

    def on_epoch(self, result: EpochResult) -> None:
        """Request a snapshot at the next step, which starts from the weights at the end of the epoch."""
        self.epochs += 1
        self.due.fill_(True)

    def after_backward(self, model: MultiTaskModel) -> None:
        """Take a requested snapshot, before the optimizer's update, and add the pull."""
        # on_epoch has no access to the model, so the copy is taken at the next step, before any change.
        if self.due:
            self.snapshot.follow(model, momentum=0.0)
            self.due.fill_(False)
        if self.epochs:
            pull(self.snapshot.pairs(model), 2 * self.delta)
