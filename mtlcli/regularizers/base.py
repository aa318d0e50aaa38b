"""The contract of a regularizer: an extra loss for one batch, or a pull on the weights at every step (survey 3.4, SMART, BPPO)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from mtlcli.data.batches import Batch
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.plugin import Plugin

RegularizerNeed = Literal["towers"]
"""towers: the architecture must hold one module of the same shape for each task (`Architecture.towers`)."""


class Rerun(Protocol):
    """The output of the same batch again, with the dropout masks of the first pass."""

    def __call__(self, embeddings: Tensor | None = None, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """From the tokens, or from word embeddings (sides * n, length, dim) in their place; with the model's weights, or with
        others by parameter name in their place."""


@dataclass(frozen=True)
class Forward:
    """One forward pass of a task on a batch, with the means to make another one.

    `output` is the head's, with its graph; `pooled()` the encodings it was made from (sides * n, dim), likewise.
    `word_embeddings()` looks the batch's words up (sides * n, length, dim). `divergence` (n,) compares two outputs row by row:
    symmetric KL for classes, squared error for scores.
    """

    model: MultiTaskModel
    task: int
    batch: Batch
    output: Tensor
    pooled: Callable[[], Tensor]
    rerun: Rerun
    word_embeddings: Callable[[], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]


class Regularizer(Plugin):
    """Adds something to every task's loss, or pulls the weights at every step.

    `forward_passes` and `backward_passes` are its cost for each batch, beside the plain pass; the mixing plan shows them.
    """

    needs: ClassVar[frozenset[RegularizerNeed]] = frozenset()
    forward_passes: float = 0.0
    backward_passes: float = 0.0

    def forward(self, forward: Forward) -> Tensor | None:
        """What is added to the task's loss of this batch, weight included: one number with its graph; None for nothing."""
        return None

    def after_backward(self, model: MultiTaskModel) -> None:
        """Called once the step's gradient is whole, before clipping: a penalty on the weights adds its own to `.grad` of
        parameters that have one. A parameter without belongs to a task that is not in the step, and stays as it is."""

    def after_step(self, model: MultiTaskModel) -> None:
        """Called once the optimizer has moved the weights: an averaged teacher follows here."""
