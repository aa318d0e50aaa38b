"""The head of tasks without labels."""

import torch
from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.tasks.items import Items
from mtlcli.tasks.no_label import NoLabel
from mtlcli.tasks.targets import Ragged, Tensors


class NoOutput(Head):
    """Predict nothing and lose nothing, for a task without labels, which learns from the loss of an architecture alone."""

    supervised = False
    own_loss = True

    def __init__(self, facts: HeadFacts) -> None:
        super().__init__(facts)
        if not isinstance(facts.task.target, NoLabel):
            raise MtlError(
                f"tasks.{facts.task.name}.head: this head predicts nothing, and the task predicts {facts.task.target.describe()}; use "
                "another head"
            )

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return no numbers (n, 0)."""
        return encodings[0].pooled[:, :0]

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return 0 for each row (n,)."""
        return output.new_zeros(len(output), dtype=torch.float32)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return that there are n rows."""
        return Ragged({"row": output.new_ones(len(output), dtype=torch.int8)})
