"""The contract of a regularizer: an extra loss for one batch, or a pull on the weights at every step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from mtlcli.data.batches import Batch
from mtlcli.facts import Coupling
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.plugin import Plugin

RegularizerNeed = Literal["towers"]
"""towers: the architecture must hold one module of the same shape per task (`Architecture.towers`)."""


class Rerun(Protocol):
    """Computes the output of the same batch again, with the dropout masks of the first pass."""

    def __call__(self, embeddings: Tensor | None = None, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the output for the tokens, or for word embeddings (sides * n, length, dim) in their place.

        `weights` replaces the model's parameters of these names.
        """


@dataclass(frozen=True)
class Forward:
    """One forward pass of a task on a batch, and the means to make more.

    `output` is the head's, with its graph; `pooled()` returns the encodings it was computed from (sides * n, dim), also
    with their graph. `word_embeddings()` looks up the batch's words (sides * n, length, dim). `divergence` (n,) compares
    two outputs row by row, as the task's target defines it: symmetric KL for classes, squared difference for scores. `logits`
    returns the numbers of an output whose softmax is the prediction, or None for an output that is no distribution.
    """

    model: MultiTaskModel
    task: int
    batch: Batch
    output: Tensor
    pooled: Callable[[], Tensor]
    rerun: Rerun
    word_embeddings: Callable[[], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]
    logits: Callable[[Tensor], Tensor | None]


class Regularizer(Plugin):
    """Adds a term to every task's loss, or pulls the weights at every step.

    `forward_passes` and `backward_passes` are its cost per batch beside the plain pass; the mixing plan shows them.
    `coupling` says what the term of a row depends on. `reads_weights` is False if it looks at neither parameters nor their gradients, so
    that a model whose parameters are divided over processes will do.
    """

    needs: ClassVar[frozenset[RegularizerNeed]] = frozenset()
    coupling: ClassVar[Coupling] = "rows"
    reads_weights: ClassVar[bool] = True
    forward_passes: float = 0.0
    backward_passes: float = 0.0

    def forward(self, forward: Forward) -> Tensor | None:
        """Return the weighted term to add to the task's loss of this batch, a scalar with its graph, or None."""
        return None

    def after_backward(self, model: MultiTaskModel) -> None:
        """Add the gradient of a penalty on the weights to `.grad`, after the step's gradient is complete and before clipping.

        A parameter without `.grad` belongs to a task that is not in the step, and has to stay unchanged.
        """

    def after_step(self, model: MultiTaskModel) -> None:
        """React to the optimizer's update of the weights, for example by updating an averaged teacher."""
