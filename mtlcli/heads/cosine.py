"""Cosine head: Reimers and Gurevych (Sentence-BERT), EMNLP 2019, arXiv:1908.10084; Ramos and Dalmia 2023, section 4.4."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, Gamma, Head, HeadFacts
from mtlcli.heads.outputs import ScoreOutput
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Score, Tensors


class Cosine(Head):
    """Map the cosine of a pair's two encodings to the range of a score: low at cosine 0, high at cosine 1.

    The head has no parameters: the encoder itself must place similar texts close together. The loss is the squared error in
    standard deviations of the training rows (the papers take the error in label units; the ratio is a constant). With `relu` a
    negative cosine counts as 0 in training too (Ramos and Dalmia, iteration 3; iteration 2 is without); without it, only in the prediction.

    Raises:
        MtlError: the task does not predict a score.
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
        target = facts.task.target
        if not isinstance(target, Score):
            raise MtlError(
                f'tasks.{facts.task.name}.head: "cosine" predicts scores; for classes of a pair use pair-concat'
            )
        self.dropout = nn.Dropout(dropout)
        self.relu = relu
        self.low, self.high = target.range
        self.std = target.std
        self.kind = ScoreOutput(target, gamma)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return scores (n,) in the units of the data, not clamped yet."""
        # In float32: just below a cosine of 1, numbers in bf16 are 1/256 apart.
        a, b = (self.dropout(encoding.pooled.float()) for encoding in encodings)
        # PyTorch bounds the norms from below, so an encoding of zeros has the cosine 0 and not NaN.
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
        if self.relu:
            cosine = torch.relu(cosine)
        # A clamped score would have no gradient outside the range, so `decode` clamps it.
        return self.low + (self.high - self.low) * cosine

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the loss (n,) of the error in standard deviations of the training rows."""
        return self.kind.error_loss((output - gold["value"].float()) / self.std, gold)

    def compared_by_cosine(self) -> nn.Sequential:
        """Return no layers: the encodings themselves are compared."""
        return nn.Sequential()

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return scores clamped to the range of the task."""
        return self.kind.clamped(output.double())
