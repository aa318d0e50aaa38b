"""Mix of a mapping and a cosine for pairs: Lozano and Bravo 2023, section 4, equation 1; Sentence-BERT, arXiv:1908.10084."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, pairwise_distance

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.layers import Activation, HiddenSizes, Shared, hidden_layers
from mtlcli.heads.outputs import output_for
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import UNSEEN, Distributions, LabelSets, Score, Tensors

NEGATIVES = 64
"""Rows of the previous batch that are kept as negatives; further rows of a larger batch are not."""


class PairMix(Head):
    """Mix a linear mapping of [a, b, |a-b|] with the cosine of a and b; for two classes, contrastive losses can be added.

    a and b are the pair's encodings x after the hidden layers, if there are any; f is linear. Equation 1 (which prints
    "alpha - 1" for "1 - alpha"): y = alpha * f([a, b, |a-b|]) + (1 - alpha) * cosine(a, b). V3 has alpha .99 for classes and
    .01 for scores (V3a, the default) or the reverse (V3b), and hidden layers shared by all tasks; V1 and V2 are alpha 0.

    Score: the cosine is mapped to the range of the task (in the paper: times 5), and `gamma` sets the loss. Two classes: y is the
    logit of the second class, and the loss is binary cross-entropy. More classes are rejected. The paper states neither where the
    sigmoid is nor that the cosine is clamped at 0; with the sigmoid outside, a positive cosine always predicts the second class,
    which agrees with the V3b and single-task rows of the paper (37.5 % accuracy, the share of that class).

    L = BCE + cosine_loss * (1 - cos if same, else max(0, cos)) + triplet_loss * max(0, d(x_a, x_b) - d(x_a, x_n) + margin), the
    triplet in rows of the second class only (0 in the other rows; the mean is over all rows). x are the encodings themselves
    (in the paper "the BERT representations"). The negatives x_n are the first texts of the previous micro-batch of this task,
    detached and row by row, so no second pass is needed; a run's first batch has none. The paper names a "cosine triplet loss"
    and states neither distance nor margin: d = 1 - cosine and 1 here. With Euclidean distances, PyTorch's default, an encoder
    trained from scratch maps all texts to one point (measured on the sample corpus).

    Raises:
        MtlError: the task predicts neither two classes nor a score, or an option does not suit it.
    """

    sides = (2,)

    def __init__(
        self,
        facts: HeadFacts,
        *,
        alpha: Annotated[
            float | None,
            Field(ge=0, le=1, description="weight of the mapping; by default .99 for classes, .01 for a score"),
        ] = None,
        learn_alpha: Annotated[bool, Field(description="learn alpha from there, as the sigmoid of a number")] = False,
        hidden: HiddenSizes = (),
        activation: Annotated[Activation, Field(description="after each hidden layer")] = "relu",
        dropout: Annotated[float, Field(ge=0, lt=1, description="share zeroed before every layer in training")] = 0.1,
        shared: Shared = None,
        gamma: Gamma = 1.0,
        cosine_loss: Annotated[
            float, Field(ge=0, description="weight of the cosine embedding loss; 1 in the paper")
        ] = 0.0,
        triplet_loss: Annotated[
            float, Field(ge=0, description="weight of the triplet margin loss; 1 in the paper")
        ] = 0.0,
        margin: Annotated[float, Field(gt=0, description="of the triplet margin loss")] = 1.0,
        distance: Annotated[
            Literal["cosine", "euclidean"], Field(description="of the triplet margin loss: 1 - cosine, or |a - b|")
        ] = "cosine",
    ) -> None:
        super().__init__(facts)
        target, where = facts.task.target, f"tasks.{facts.task.name}.head"
        self.kind = output_for(facts.task, gamma)
        self.score = target if isinstance(target, Score) else None
        if self.score is None and (facts.outputs != 2 or isinstance(target, Distributions | LabelSets)):
            raise MtlError(
                f'{where}: "pair-mix" predicts two classes or a score, and the task {target.describe()}; use pair-concat'
            )
        if self.score is not None and (cosine_loss or triplet_loss):
            raise MtlError(
                f"{where}: cosine_loss and triplet_loss compare pairs of two classes; remove them for a score"
            )
        weight = (0.99 if self.score is None else 0.01) if alpha is None else alpha
        if learn_alpha and weight in (0, 1):
            raise MtlError(f"{where}.alpha: found {weight:g}: learn_alpha starts from a number between 0 and 1")
        self.hidden, width = hidden_layers(facts, hidden, activation, dropout, shared)
        self.dropout = nn.Dropout(dropout)
        # With alpha 0, the parameters of the mapping would never have a gradient.
        self.mapping = nn.Linear(3 * width, 1) if weight else None
        self.fixed_alpha = weight
        # The logit of `weight`, so that the sigmoid starts at `weight`.
        self.alpha_logit = nn.Parameter(torch.tensor(math.log(weight / (1 - weight)))) if learn_alpha else None
        self.cosine_loss, self.triplet_loss = cosine_loss, triplet_loss
        self.margin, self.distance = margin, distance
        if triplet_loss:
            self.coupling = "memory"
            # Buffers are part of checkpoints, so a resumed run compares with the same negatives.
            self.register_buffer("negatives", torch.zeros(NEGATIVES, facts.dim))
            self.register_buffer("kept", torch.zeros((), dtype=torch.int64))
        self.negatives: Tensor
        self.kept: Tensor

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return standardized scores (n,), or logits (n, 2) followed by both encodings where the loss needs them (n, 2 + 2 * dim)."""
        texts = [encoding.pooled.float() for encoding in encodings]
        a, b = (self.hidden(text) for text in texts)
        alpha = self.fixed_alpha if self.alpha_logit is None else torch.sigmoid(self.alpha_logit)
        # Under autocast, hidden layers return bf16.
        mixed = (1 - alpha) * self._in_range(cosine_similarity(a.float(), b.float(), dim=-1))
        if self.mapping is not None:
            parts = torch.cat([a, b, (a - b).abs()], dim=-1)
            mixed = mixed + alpha * self.mapping(self.dropout(parts)).squeeze(-1).float()
        if self.score is not None:
            return mixed
        logits = torch.stack([torch.zeros_like(mixed), mixed], dim=-1)  # their softmax is the sigmoid of `mixed`
        # `loss` and `observe` receive the output alone, so it has to include the encodings.
        return torch.cat([logits, *texts], dim=-1) if self.cosine_loss or self.triplet_loss else logits

    def _in_range(self, cosine: Tensor) -> Tensor:
        """Map cosine 0 to the low end of a score's range and 1 to the high end, in standard deviations from the mean."""
        if self.score is None:
            return cosine
        low, high = self.score.range
        return (low + (high - low) * cosine - self.score.mean) / self.score.std

    def compared_by_cosine(self) -> nn.Sequential | None:
        """Return the hidden layers, unless the mapping alone counts."""
        if self.fixed_alpha == 1:
            return None
        return self.hidden if isinstance(self.hidden, nn.Sequential) else None

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        return 1 - cosine_similarity(a, b, dim=-1) if self.distance == "cosine" else pairwise_distance(a, b)

    def predicted(self, output: Tensor) -> Tensor:
        """Return logits (n, 2) or standardized scores (n,)."""
        return output[:, :2] if self.score is None else output

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the loss of a score's error in standard deviations, or cross-entropy and the losses on the encodings."""
        loss = self.kind.loss(self.predicted(output), gold)
        if not (self.cosine_loss or self.triplet_loss):
            return loss
        a, b = output[:, 2:].float().chunk(2, dim=-1)
        weight = self.kind.weight_of(gold)
        # `same` is 0 outside the second class, `known - same` outside the first one; both are 0 for an unknown class.
        same, known = weight * (gold["index"] == 1), weight * (gold["index"] != UNSEEN)
        if self.cosine_loss:
            cosine = cosine_similarity(a, b, dim=-1)
            loss = loss + self.cosine_loss * (same * (1 - cosine) + (known - same) * torch.relu(cosine))
        if self.triplet_loss:
            # Fewer negatives than rows are reused in order. The clamp avoids a division by 0 before the first batch.
            rows = torch.arange(len(a), device=a.device) % self.kept.clamp(min=1)
            negatives = self.negatives[rows]
            nearer = self._distance(a, b) - self._distance(a, negatives)
            loss = loss + self.triplet_loss * same * (self.kept > 0) * torch.relu(nearer + self.margin)
        return loss

    def observe(self, output: Tensor, gold: Tensors) -> None:
        """Keep the first texts of the batch as the negatives of the next one, unless a number is not finite."""
        # NaN among the negatives would make the next loss NaN too.
        if self.triplet_loss and bool(torch.isfinite(output).all()):
            texts = output[:NEGATIVES, 2:].chunk(2, dim=-1)[0]
            self.negatives[: len(texts)] = texts
            self.kept.fill_(len(texts))

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the softmax and its larger class, or the score in the units of the data."""
        return self.kind.decode(self.predicted(output))
