"""Cosine head: Reimers and Gurevych (Sentence-BERT), EMNLP 2019, arXiv:1908.10084, section 3; RD 4.4, iterations 2 and 3."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.errors import MtlError
from mtlcli.heads.base import ClassesOrScore, Decoded, EncoderOutput, Gamma, Head, HeadFacts


class Cosine(Head):
    """The cosine of a pair's two encodings, mapped to the task's range: low at cosine 0, high at cosine 1.

    Nothing is learned here: the encoder itself has to place similar texts side by side. The loss is the squared error in
    standard deviations of the training labels (the papers take the error in label units; the ratio is a constant). With
    `relu` a negative cosine counts as 0 already in training (RD iteration 3); without it, only in the prediction.
    Raises MtlError for a task with classes.
    """

    sides = (2,)

    def __init__(
        self,
        facts: HeadFacts,
        *,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of each encoding zeroed in training")] = 0.0,
        relu: Annotated[bool, Field(description="a negative cosine counts as 0 in training")] = False,
        gamma: Gamma = 1.0,
    ) -> None:
        super().__init__(facts)
        if not facts.task.is_regression:
            raise MtlError(
                f'tasks.{facts.task.name}.head: "cosine" predicts scores; for classes of a pair use pair-concat'
            )
        self.dropout = nn.Dropout(dropout)
        self.relu = relu
        self.low, self.high = facts.task.score_range or (0.0, 1.0)
        self.kind = ClassesOrScore(facts.task, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Two encodings (n, dim) -> scores (n,) in the units of the data, not yet clamped."""
        a, b = (self.dropout(encoding.pooled.float()) for encoding in encodings)
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
        if self.relu:
            cosine = torch.relu(cosine)
        return self.low + (self.high - self.low) * cosine

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The error in standard deviations of the training labels, squared where gamma is 1 (n,)."""
        return self.kind.score_loss((output - targets.float()) / self.kind.std)

    def decode(self, output: Tensor) -> Decoded:
        """Scores clamped to the range of the task."""
        return Decoded(output.double().clamp(self.low, self.high))
