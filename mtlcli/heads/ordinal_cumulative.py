"""Cumulative logits: ordered classes by one score and ordered thresholds (McCullagh 1980, proportional odds)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.cross_entropy import CrossEntropy
from mtlcli.heads.rank_scores import RankScore, decoded, log_odds_above, ranks_of
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors

SMALLEST_STEP = 1e-3
"""Least distance of two thresholds at the start, where no training row lies between them."""


class OrdinalCumulative(Head):
    """Predict P(y <= k) = sigmoid(theta_k - w . x) with ascending thresholds theta_k.

    Each threshold is the one before it plus softplus of a parameter, so that they stay in order and every class has a positive
    probability, sigmoid(theta_k - s) - sigmoid(theta_{k-1} - s). The loss is the cross-entropy of these probabilities, in training with
    the class weights and the focal loss of the task. Thresholds start where the shares of the training rows put them.
    """

    # A uniform share of every label says that the lowest class is as near to the highest as its neighbor is.
    unsupported_options = frozenset({"label_smoothing"})

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of the encoding zeroed in training")] = 0.1,
    ) -> None:
        super().__init__(facts)
        self.target = ranks_of(facts)
        self.score = RankScore(facts.dim, dropout)
        # At a score of 0, theta_k is the log-odds of y <= k, the negative of those of y > k.
        thresholds = -torch.tensor(log_odds_above(self.target), dtype=torch.float64)
        gaps = thresholds.diff().clamp_min(SMALLEST_STEP)
        self.first = nn.Parameter(thresholds[:1].float())
        self.steps = nn.Parameter(torch.log(torch.expm1(gaps)).float())  # the inverse of softplus
        self.cross_entropy = CrossEntropy(facts.task.class_loss)

    def thresholds(self) -> Tensor:
        """Return theta (C - 1,), in ascending order."""
        return torch.cat([self.first, self.first + softplus(self.steps).cumsum(0)])

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return the logarithms of the class probabilities (n, C) float32."""
        score = self.score(encodings[0])
        with torch.autocast(score.device.type, enabled=False):
            return log_probabilities(self.thresholds() - score, softplus(self.steps))

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy (n,), in training with the options of the task."""
        # The softmax of the logarithms of probabilities is the probabilities, so they can serve as logits.
        losses: Tensor = self.cross_entropy(output, gold["index"])
        return losses

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the class, see `Ranks.decode`, and the class probabilities."""
        return decoded(self.target, torch.softmax(output.float(), dim=-1))


def log_probabilities(cumulative: Tensor, gaps: Tensor) -> Tensor:
    """Return the logarithms of the class probabilities (n, C).

    log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a)) for a > b, which loses no digits where both
    are near 0 or near 1.

    Args:
        cumulative: logits of y <= k (n, C - 1), ascending in k.
        gaps: their differences (C - 2,), which are the same for all rows. Differences of the rounded logits can be 0 for a class
            that training rows never have, whose thresholds move together.
    """
    upper, lower = cumulative[:, 1:], cumulative[:, :-1]
    width = torch.log(-torch.expm1(-gaps.clamp_min(torch.finfo(gaps.dtype).tiny)))
    # (n, C - 2), the classes other than the lowest and the highest.
    between = logsigmoid(upper) + logsigmoid(-lower) + width
    return torch.cat([logsigmoid(cumulative[:, :1]), between, logsigmoid(-cumulative[:, -1:])], dim=1)
