"""CORAL: ordered classes by one score and a bias for each threshold (Cao, Mirjalili and Raschka 2020, arXiv:1901.07884)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.tasks.items import Items
from mtlcli.tasks.ranks import Ranks, logit
from mtlcli.tasks.targets import UNSEEN, Ragged, Tensors


class OrdinalCoral(Head):
    """Predict P(y > k) = sigmoid(w . x + b_k) for each k, with one weight vector w for all thresholds.

    The loss is the mean binary cross-entropy over the C - 1 thresholds (equation 4, divided by C - 1 so that its scale does not grow
    with the classes). Biases start at the log-odds of y > k among the training rows.
    """

    own_loss = True

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
        self.bias = nn.Parameter(torch.tensor(start_of(self.target)))

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return the logits of y > k (n, C - 1)."""
        return self.score(self.dropout(encodings[0].pooled)).float() + self.bias

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the mean binary cross-entropy over thresholds (n,), 0 where the class is unknown."""
        index = gold["index"]
        is_above = index.unsqueeze(1) > torch.arange(output.shape[1], device=index.device)
        logits = output.float()
        # -log sigmoid(z) = softplus(-z), and -log(1 - sigmoid(z)) = softplus(z).
        losses = softplus(torch.where(is_above, -logits, logits)).mean(1)
        return losses.masked_fill(index == UNSEEN, 0.0)

    def predicted(self, output: Tensor) -> Tensor:
        """Return the logarithms of the class probabilities (n, C)."""
        return class_probabilities(output).clamp_min(torch.finfo(torch.float32).tiny).log()

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the class by the number of thresholds with P(y > k) > 1/2, and the class probabilities."""
        return decoded(self.target, class_probabilities(output))


def class_probabilities(output: Tensor) -> Tensor:
    """Return the probability of each class (n, C) from the logits of y > k (n, C - 1).

    P(y > k) falls with k at the optimum (theorem 1), but need not during training: it is sorted, which leaves the number of k with
    P(y > k) > 1/2 as it is and makes every class probability positive.
    """
    above = torch.sigmoid(output.float()).sort(dim=1, descending=True).values
    ones = above.new_ones(len(above), 1)
    return torch.cat([ones, above], dim=1) - torch.cat([above, ones - 1], dim=1)


def ranks_of(facts: HeadFacts) -> Ranks:
    """Return the task's target.

    Raises:
        MtlError: it has no ordered classes.
    """
    if not isinstance(facts.task.target, Ranks):
        raise MtlError(
            f"tasks.{facts.task.name}.head: this head predicts ordered classes (kind: ordinal), and the task "
            f"{facts.task.target.describe()}; use another head"
        )
    return facts.task.target


def start_of(target: Ranks) -> list[float]:
    """Return the log-odds of y > k among the training rows (C - 1)."""
    shares = target.above or [1 - (k + 1) / len(target.labels) for k in range(len(target.labels) - 1)]
    return [logit(share) for share in shares]


def decoded(target: Ranks, probabilities: Tensor) -> Tensors:
    """Return predictions from the probabilities of classes (n, C)."""
    index = target.decided(probabilities.detach().double().cpu().numpy())
    return Ragged({"index": torch.from_numpy(index).to(probabilities.device), "probabilities": probabilities})
