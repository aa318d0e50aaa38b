"""Confidence penalty: Pereyra et al., ICLR 2017 workshop, arXiv:1701.06548. An example to change."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.regularizers.base import Forward, Regularizer


class Example(Regularizer):
    """Subtract the entropy of the predicted classes from the loss, which discourages overconfidence; skip scores."""

    def __init__(
        self,
        run: RunFacts,
        *,
        weight: Annotated[float, Field(ge=0, description="beta, the factor of the entropy")] = 0.1,
    ) -> None:
        super().__init__(run)
        self.weight = weight

    def forward(self, forward: Forward) -> Tensor | None:
        """Return minus beta times the mean entropy of the rows, in nats."""
        logits = forward.logits(forward.output)
        if logits is None:
            return None
        logs = torch.log_softmax(logits, dim=-1)
        return self.weight * (logs.exp() * logs).sum(-1).mean()
