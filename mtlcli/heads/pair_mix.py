"""Mix of a mapping and a cosine for pairs: LB 4, equation 1 and its losses, architectures V1 to V3; Sentence-BERT, arXiv:1908.10084."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, pairwise_distance

from mtlcli.errors import MtlError
from mtlcli.heads.base import ClassesOrScore, Decoded, EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.layers import Activation, HiddenSizes, Shared, hidden_layers

NEGATIVES = 64
"""Rows of the previous batch that are kept as negatives; the rest of a larger batch is left out."""


class PairMix(Head):
    """Mixes a linear mapping of [a, b, |a-b|] with the cosine of a and b; for two classes it may add contrastive losses.

    a and b are the pair's encodings x behind the hidden layers, if there are any; f is linear. Equation 1 (which prints
    "alpha - 1" for "1 - alpha"): y = alpha * f([a, b, |a-b|]) + (1 - alpha) * cosine(a, b). V3 has alpha .99 for classes and
    .01 for scores (V3a, the default) or the other way round (V3b), and hidden layers shared by all tasks; V1 and V2 are alpha 0.

    Score: the cosine is mapped to the range of the task (LB: times 5), the loss is that of `gamma`. Two classes: y is the logit
    of the second class, and the loss binary cross-entropy. LB states neither where the sigmoid is nor that the cosine is kept
    from going negative; with it outside, a positive cosine always predicts the second class, which is what LB's V3b and the
    single-task rows look like (37.5 % right, the share of that class). More classes are refused.

    L = BCE + cosine_loss * (1 - cos if same, else max(0, cos)) + triplet_loss * max(0, d(x_a, x_b) - d(x_a, x_n) + margin), the
    triplet in rows of the second class only (0 in others; the mean is over all rows). x are the encodings themselves (LB: "the
    BERT representations"). Negatives x_n are those of the first texts of the previous micro-batch of this task, detached and
    row by row, so no second pass is needed; a run's first batch has none. LB speaks of "cosine triplet loss" and states neither
    distance nor margin: d = 1 - cosine and 1 here. Euclidean distances, PyTorch's default, let an encoder that starts from
    nothing draw all texts into one point (measured on the sample corpus).
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
        cosine_loss: Annotated[float, Field(ge=0, description="weight of the cosine embedding loss; LB: 1")] = 0.0,
        triplet_loss: Annotated[float, Field(ge=0, description="weight of the triplet margin loss; LB: 1")] = 0.0,
        margin: Annotated[float, Field(gt=0, description="of the triplet margin loss")] = 1.0,
        distance: Annotated[
            Literal["cosine", "euclidean"], Field(description="of the triplet margin loss: 1 - cosine, or |a - b|")
        ] = "cosine",
    ) -> None:
        super().__init__(facts)
        task, where = facts.task, f"tasks.{facts.task.name}.head"
        if task.labels is not None and len(task.labels) != 2:
            raise MtlError(
                f'{where}: "pair-mix" predicts two classes or a score, not {len(task.labels)} classes; use pair-concat'
            )
        if task.labels is None and (cosine_loss or triplet_loss):
            raise MtlError(
                f"{where}: cosine_loss and triplet_loss compare pairs of two classes; leave them out for a score"
            )
        chosen = (0.01 if task.is_regression else 0.99) if alpha is None else alpha
        if learn_alpha and chosen in (0, 1):
            raise MtlError(f"{where}.alpha: found {chosen:g}: learn_alpha starts from a number between 0 and 1")
        self.hidden, width = hidden_layers(facts, hidden, activation, dropout, shared)
        self.dropout = nn.Dropout(dropout)
        self.mapping = nn.Linear(3 * width, 1) if chosen else None
        self.fixed_alpha = chosen
        self.alpha_logit = nn.Parameter(torch.tensor(math.log(chosen / (1 - chosen)))) if learn_alpha else None
        self.kind = ClassesOrScore(task, gamma)
        self.cosine_loss, self.triplet_loss = cosine_loss, triplet_loss
        self.margin, self.distance = margin, distance
        if triplet_loss:
            self.register_buffer("negatives", torch.zeros(NEGATIVES, facts.dim))
            self.register_buffer("kept", torch.zeros((), dtype=torch.int64))
        self.negatives: Tensor
        self.kept: Tensor

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Two encodings (n, dim) -> standardised scores (n,), or logits (n, 2), followed by both encodings (n, 2 + 2 * dim) where
        the loss needs them."""
        texts = [encoding.pooled.float() for encoding in encodings]
        a, b = (self.hidden(text) for text in texts)
        alpha = self.fixed_alpha if self.alpha_logit is None else torch.sigmoid(self.alpha_logit)
        mixed = (1 - alpha) * self._in_range(cosine_similarity(a.float(), b.float(), dim=-1))
        if self.mapping is not None:
            parts = torch.cat([a, b, (a - b).abs()], dim=-1)
            mixed = mixed + alpha * self.mapping(self.dropout(parts)).squeeze(-1).float()
        if self.facts.task.is_regression:
            return mixed
        logits = torch.stack([torch.zeros_like(mixed), mixed], dim=-1)  # their softmax is the sigmoid of `mixed`
        return torch.cat([logits, *texts], dim=-1) if self.cosine_loss or self.triplet_loss else logits

    def _in_range(self, cosine: Tensor) -> Tensor:
        """A score's cosine 0 is the low end of its range and 1 the high one, here in standard deviations from the mean."""
        if not self.facts.task.is_regression:
            return cosine
        kind = self.kind
        return (kind.low + (kind.high - kind.low) * cosine - kind.mean) / kind.std

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        return 1 - cosine_similarity(a, b, dim=-1) if self.distance == "cosine" else pairwise_distance(a, b)

    def predicted(self, output: Tensor) -> Tensor:
        """Logits (n, 2) or standardised scores (n,)."""
        return output if self.facts.task.is_regression else output[:, :2]

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The error of a score in standard deviations, or cross-entropy and the losses on the encodings."""
        loss = self.kind.loss(self.predicted(output), targets)
        if not (self.cosine_loss or self.triplet_loss):
            return loss
        a, b = output[:, 2:].float().chunk(2, dim=-1)
        same = (targets == 1).float()
        if self.cosine_loss:
            cosine = cosine_similarity(a, b, dim=-1)
            loss = loss + self.cosine_loss * (same * (1 - cosine) + (1 - same) * torch.relu(cosine))
        if self.triplet_loss:
            rows = torch.arange(len(a), device=a.device) % self.kept.clamp(min=1)
            negatives = self.negatives[rows]
            nearer = self._distance(a, b) - self._distance(a, negatives)
            loss = loss + self.triplet_loss * same * (self.kept > 0) * torch.relu(nearer + self.margin)
        return loss

    def observe(self, output: Tensor, targets: Tensor) -> None:
        """Keeps the first texts of the batch as the negatives of the next one; not where a number is not finite."""
        if self.triplet_loss and bool(torch.isfinite(output).all()):
            texts = output[:NEGATIVES, 2:].chunk(2, dim=-1)[0]
            self.negatives[: len(texts)] = texts
            self.kept.fill_(len(texts))

    def decode(self, output: Tensor) -> Decoded:
        """Softmax and its larger class, or the score in the units of the data."""
        return self.kind.decode(self.predicted(output))
