"""The contract of a regularizer: an extra loss for one batch, and what happens after a step (survey 3.4, SMART, BPPO)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from mtlcli.architectures.base import Inputs
from mtlcli.data.batching import Batch
from mtlcli.news import Listener
from mtlcli.plugin import Plugin


@dataclass(frozen=True)
class Forward:
    """One forward pass of a task on a batch, with the means to make another one.

    `output` is the head's, with its graph. `rerun(embeddings)` gives the output of the same batch again: from the tokens,
    or from word embeddings (sides * n, length, dim) in their place; `word_embeddings()` looks those up. `divergence` (n,)
    compares two outputs row by row: symmetric KL for classes, squared error for scores.
    """

    model: nn.Module
    task: int
    batch: Batch
    inputs: Inputs
    output: Tensor
    rerun: Callable[[Tensor | None], Tensor]
    word_embeddings: Callable[[], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]


class Regularizer(Plugin, Listener, ABC):
    """Adds something to every task's loss. `passes` is its cost: forward and backward passes beside the plain one."""

    passes: float = 0.0

    @abstractmethod
    def forward(self, forward: Forward) -> Tensor:
        """What is added to the task's loss of this batch, weight included: one number with its graph."""

    def after_step(self, model: nn.Module) -> None:
        """Called once the optimizer has moved the weights: an averaged teacher follows here."""
