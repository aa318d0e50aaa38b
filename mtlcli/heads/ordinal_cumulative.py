"""Cumulative logits: ordered classes by one score and ordered thresholds (McCullagh 1980, proportional odds)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.cross_entropy import CrossEntropy
from mtlcli.heads.ordinal_coral import decoded, ranks_of, start_of
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors

SMALLEST_STEP = 1e-3
"""Least distance of two thresholds at the start, where no training row lies between them."""


class OrdinalCumulative(Head):
    """Predict P(y <= k) = sigmoid(theta_k - w . x) with thresholds theta_0 < theta_1 < ...

    Each threshold is the one before it plus softplus of a parameter, so that they stay in order and every class has a positive
    probability, sigmoid(theta_k - s) - sigmoid(theta_{k-1} - s). The loss is the cross-entropy of these probabilities, in training with
    the options of the task. Thresholds start where the shares of the training rows put them.
    """

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of the encoding zeroed in training")] = 0.1,
    ) -> None:
        super().__init__(facts)
        self.target = ranks_of(facts)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(facts.dim, 1, bias=False)
        thresholds = -torch.tensor(start_of(self.target), dtype=torch.float64)
        steps = thresholds.diff().clamp_min(SMALLEST_STEP)
        self.first = nn.Parameter(thresholds[:1].float())
        self.steps = nn.Parameter(torch.log(torch.expm1(steps)).float())  # the inverse of softplus
        self.cross_entropy = CrossEntropy(facts.task.class_loss)

    def thresholds(self) -> Tensor:
        """Return theta (C - 1,), in ascending order."""
        return torch.cat([self.first, self.first + softplus(self.steps).cumsum(0)])

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return the logarithms of the class probabilities (n, C) float32."""
        score = self.score(self.dropout(encodings[0].pooled)).float()
        with torch.autocast(score.device.type, enabled=False):
            return log_probabilities(self.thresholds() - score)

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy (n,), in training with the options of the task."""
        losses: Tensor = self.cross_entropy(output, gold["index"])
        return losses

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the class, see `Ranks.decode`, and the class probabilities."""
        return decoded(self.target, torch.softmax(output.float(), dim=-1))


def log_probabilities(cumulative: Tensor) -> Tensor:
    """Return the logarithms of the class probabilities (n, C) from the logits of y <= k (n, C - 1), ascending in k.

    log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a)) for a > b, which loses no digits where both
    are near 0 or near 1.
    """
    upper, lower = cumulative[:, 1:], cumulative[:, :-1]
    between = logsigmoid(upper) + logsigmoid(-lower) + torch.log1p(-torch.exp(lower - upper))
    return torch.cat([logsigmoid(cumulative[:, :1]), between, logsigmoid(-cumulative[:, -1:])], dim=1)
