"""CORAL: ordered classes by one score and a bias for each threshold (Cao, Mirjalili and Raschka 2020, arXiv:1901.07884)."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.cross_entropy import CrossEntropy
from mtlcli.heads.rank_scores import RankScore, decoded, log_odds_above, ranks_of
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import UNSEEN, Target, Tensors


class OrdinalCoral(Head):
    """Predict P(y > k) = sigmoid(w . x + b_k) for each k, with one weight vector w for all thresholds.

    The loss is the mean binary cross-entropy over the C - 1 thresholds (equation 4, divided by C - 1 so that its scale does not grow
    with the classes), in training times the weight of the class. Biases start at the log-odds of y > k among the training rows.

    Difference from the paper: weights are those of classes (`class_weights`), not the importance of each threshold.
    """

    unsupported_options = frozenset({"label_smoothing", "focal"})

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of the encoding zeroed in training")] = 0.1,
    ) -> None:
        super().__init__(facts)
        self.target = ranks_of(facts)
        self.score = RankScore(facts.dim, dropout)
        self.bias = nn.Parameter(torch.tensor(log_odds_above(self.target)))
        # Its loss is not used. A head supports `class_weights` if it holds such a module, which also provides the
        # weights.
        self.options = CrossEntropy(facts.task.class_loss)

    @classmethod
    def guess(cls, target: Target) -> float:
        """Return log 2: each threshold decides between two sides."""
        return math.log(2)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return the logits of y > k (n, C - 1) float32."""
        return self.score(encodings[0]) + self.bias

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the mean binary cross-entropy over thresholds (n,), 0 where the class is unknown."""
        index = gold["index"]
        # (n, C - 1). UNSEEN is -1, above no threshold, and its loss is set to 0 below.
        is_above = index.unsqueeze(1) > torch.arange(output.shape[1], device=index.device)
        logits = output.float()
        # -log sigmoid(z) = softplus(-z), and -log(1 - sigmoid(z)) = softplus(z).
        losses = softplus(torch.where(is_above, -logits, logits)).mean(1) * self.options.weight_of(index)
        return losses.masked_fill(index == UNSEEN, 0.0)

    def predicted(self, output: Tensor) -> Tensor:
        """Return the logarithms of the class probabilities (n, C)."""
        # The difference of two rounded sigmoids can be 0.
        return class_probabilities(output).clamp_min(torch.finfo(torch.float32).tiny).log()

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the class, see `Ranks.decode`, and the class probabilities."""
        return decoded(self.target, class_probabilities(output))


def class_probabilities(output: Tensor) -> Tensor:
    """Return the probability of each class (n, C) from the logits of y > k (n, C - 1).

    P(y > k) falls with k at the optimum (theorem 1), but need not during training: it is sorted, which leaves the number of k with
    P(y > k) > 1/2 as it is and makes no class probability negative.
    """
    above = torch.sigmoid(output.float()).sort(dim=1, descending=True).values
    # P(y = k) = P(y > k - 1) - P(y > k), where P(y > -1) = 1 and P(y > C - 1) = 0.
    ones = torch.ones_like(above[:, :1])
    return torch.cat([ones, above], dim=1) - torch.cat([above, ones - 1], dim=1)
