"""The contract of a head: representation -> output, loss, decoded prediction."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts

Composition = Literal["pairs-of-classes"]
"""What a head may ask of its training batches: two rows of every class, the first ones of all classes before the second ones."""

Gamma = Annotated[
    float, Field(ge=0, le=1, description="of a score's loss: gamma * squared error + (1 - gamma) * absolute error")
]
"""The option `gamma` of heads that predict scores (LB 4: gamma * MSE + (1 - gamma) * L1, printed "gamma - 1")."""


@dataclass(frozen=True)
class EncoderOutput:
    """What the encoder made of one text (or one joined pair) of each of n rows.

    tokens (n, length, dim) of the layer the head reads, mask (n, length) True where there is a token, pooled (n, dim).
    `layers` holds every hidden state, embeddings first, and only where the head set `all_layers`.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    layers: tuple[Tensor, ...] = ()


MakeShared = Callable[[str, Callable[[], nn.Module]], nn.Module]


def _own(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    return make()


@dataclass(frozen=True)
class HeadFacts:
    """What a head is told: its task, the encoder's width, and how many encodings a row has (2 for `bi`, else 1).

    `shared(name, make)` is the module of this name, which all heads that ask for it hold together: the first one's `make`
    builds it, and the others have to ask for one of the same build. A head that stands alone gets one of its own.
    """

    task: TaskFacts
    dim: int
    sides: int
    shared: MakeShared = field(default=_own, repr=False, compare=False)

    @property
    def outputs(self) -> int:
        """Numbers per row that a plain head gives: one per class, or one score."""
        return 1 if self.task.labels is None else len(self.task.labels)


@dataclass(frozen=True)
class Decoded:
    """Predictions of n rows: `values` (n,) are class indices or scores in the units of the data; `probabilities` (n, classes)
    sum to one in each row and are None for scores."""

    values: Tensor
    probabilities: Tensor | None = None


class Head(nn.Module, ABC):
    """Turns encodings into the output of one task, and the output into a loss and a prediction.

    A plugin's constructor takes `HeadFacts` and keyword-only options. `sides` says how many encodings of a row it can
    read; `layer` names a hidden layer of its own (None: the run's), `all_layers` asks for all of them, `further_layers` says
    which of those it reads (empty: maybe all), so that an encoder without them is refused before step 1, and only these are
    kept of a frozen one; `composition` asks for training batches of a certain make (None: any rows of similar length).
    """

    sides: ClassVar[tuple[int, ...]] = (1,)
    composition: ClassVar[Composition | None] = None
    layer: int | None = None
    all_layers: bool = False
    further_layers: tuple[int, ...] = ()

    def __init__(self, facts: HeadFacts) -> None:
        super().__init__()
        self.facts = facts

    @abstractmethod
    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """One or two encodings of n rows -> output (n, ...)."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """output (n, ...), targets (n,) -> loss of each row (n,), float32. The engine takes the mean."""

    @abstractmethod
    def decode(self, output: Tensor) -> Decoded:
        """output (n, ...) -> predictions in the units of the data."""

    def predicted(self, output: Tensor) -> Tensor:
        """The part of an output that predicts: logits (n, classes) or scores (n,). Where the loss needs more than that, the
        output carries more."""
        return output

    def observe(self, output: Tensor, targets: Tensor) -> None:
        """Called once for each training micro-batch, after its backward pass, with its output detached: what a loss keeps
        from batch to batch changes here, in buffers, and nowhere else, because a batch may be run several times."""


class ClassesOrScore(nn.Module):
    """Loss and decoding that most heads share: cross-entropy over classes, squared error of a standardised score.

    Classes: output (n, classes) are logits. Score: output (n,) is in standard deviations of the training labels from
    their mean, and the loss is the squared error in those units, so a constant guess costs 1 in any units of the file.
    With `gamma` below 1 a score costs gamma * e^2 + (1 - gamma) * |e|, in the same units. Raises MtlError for such a gamma
    where classes are predicted.
    """

    def __init__(self, task: TaskFacts, gamma: float = 1.0) -> None:
        super().__init__()
        if gamma != 1.0 and not task.is_regression:
            raise MtlError(
                f"tasks.{task.name}.head.gamma: mixes losses of scores, and this task predicts classes; leave it out"
            )
        self.gamma = gamma
        self.is_regression = task.is_regression
        self.mean, self.std = task.score_mean or 0.0, task.score_std or 1.0
        self.low, self.high = task.score_range or (0.0, 1.0)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """output (n, classes) or (n,), targets (n,) -> (n,) float32."""
        output = output.float()
        if self.is_regression:
            return self.score_loss(output - self.standardised(targets))
        return nn.functional.cross_entropy(output, targets, reduction="none")

    def score_loss(self, error: Tensor) -> Tensor:
        """Errors (n,) in standard deviations -> gamma * e^2 + (1 - gamma) * |e| (n,)."""
        if self.gamma == 1.0:
            return error**2
        return self.gamma * error**2 + (1 - self.gamma) * error.abs()

    def standardised(self, scores: Tensor) -> Tensor:
        """Scores (n,) of the data -> standard deviations from the training mean (n,) float32."""
        return ((scores - self.mean) / self.std).float()

    def decode(self, output: Tensor) -> Decoded:
        """Scores are clamped to the range of the task."""
        if self.is_regression:
            return Decoded((output.double() * self.std + self.mean).clamp(self.low, self.high))
        probabilities = torch.softmax(output.float(), dim=-1)
        return Decoded(probabilities.argmax(-1), probabilities)
