"""The contract of a head: from encodings to an output, its loss and predictions."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from mtlcli.facts import Coupling, TaskFacts
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Target, Tensors

Composition = Literal["pairs-of-classes"]
"""What a head can require of its training batches: two rows of each class, the first rows of all classes before the second ones."""

Gamma = Annotated[
    float, Field(ge=0, le=1, description="of a score's loss: gamma * squared error + (1 - gamma) * absolute error")
]
"""The option `gamma` of heads that predict scores (Lozano and Bravo 2023, section 4, which prints "gamma - 1")."""


@dataclass(frozen=True)
class EncoderOutput:
    """The encoder's output for one text (or one joined pair) of each of n rows.

    Attributes:
        tokens: (n, length, dim), the layer that the head reads.
        mask: (n, length), True where there is a token.
        pooled: (n, dim).
        layers: every hidden state (n, length, dim), embeddings first; empty unless the head sets `all_layers`.
        items: where the items of the rows stand in the tokens, for a head with `items`. A row may then have several sequences, so
            that the first axis of the other attributes counts sequences.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    layers: tuple[Tensor, ...] = ()
    items: Items | None = None

    def part(self, rows: slice) -> "EncoderOutput":
        """Return the encodings of some of the sequences, with the same items."""
        layers = tuple(state[rows] for state in self.layers)
        return EncoderOutput(self.tokens[rows], self.mask[rows], self.pooled[rows], layers, self.items)


MakeShared = Callable[[str, Callable[[], nn.Module]], nn.Module]


def _not_shared(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    return make()


@dataclass(frozen=True)
class HeadFacts:
    """What a head may know: its task, the encoder's width, and how many encodings a row has (2 for `bi`, else 1).

    `shared(name, make)` returns the module of this name, which several heads hold together: the first head's `make` builds it, and
    the other heads must ask for the same build. Outside a model, each head gets a new module.
    """

    task: TaskFacts
    dim: int
    sides: int
    shared: MakeShared = field(default=_not_shared, repr=False, compare=False)

    @property
    def outputs(self) -> int:
        """Numbers that a plain head gives for one item: one for each class, or one score."""
        return self.task.target.outputs()


class Head(nn.Module, ABC):
    """Turns encodings into the output of one task, and the output into losses and predictions.

    A plugin's constructor takes `HeadFacts` and keyword-only options. It raises MtlError for a target that it cannot predict.

    Attributes:
        sides: how many encodings of a row the head can read.
        items: the encoding whose items it predicts, such as `words`; empty for a head that predicts one thing for a row.
        supervised: False if it has no loss, so that a task learns only from what the architecture adds.
        own_loss: True if the loss is no `CrossEntropy` of classes, so that `class_weights`, `label_smoothing` and `focal` are rejected
            before data is read. Of other heads, those that hold no `CrossEntropy` are rejected once they are built.
        unsupported_options: which of these three the loss does not support, for a head that supports the others.
        composition: what training batches must be made of; None: any rows of similar length.
        layer: hidden layer that this head reads; None: the layer of the run.
        all_layers: whether it reads other hidden states too.
        further_layers: which of these it reads; empty: possibly all. An encoder without them is refused before step 1, and of a
            frozen encoder only these are kept.
        coupling: what the loss of a row depends on.
    """

    sides: ClassVar[tuple[int, ...]] = (1,)
    items: ClassVar[str] = ""
    supervised: ClassVar[bool] = True
    own_loss: ClassVar[bool] = False
    unsupported_options: ClassVar[frozenset[str]] = frozenset()
    composition: ClassVar[Composition | None] = None
    layer: int | None = None
    all_layers: bool = False
    further_layers: tuple[int, ...] = ()
    coupling: Coupling = "rows"

    def __init__(self, facts: HeadFacts) -> None:
        super().__init__()
        self.facts = facts

    @classmethod
    def guess(cls, target: Target) -> float:
        """Return the loss per unit of a model that knows nothing of the text, for a head whose loss is not that of the target."""
        return target.guess

    @abstractmethod
    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return the output (n, ...) for one or two encodings of n rows, or (m, ...) for their m items."""

    @abstractmethod
    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the loss of each row (n,) float32: the sum over its units with a known label, 0 for a row without any.

        The engine divides by the units of all micro-batches of the task's visit. For targets whose unit is the row, that is the
        mean over rows.

        Args:
            output: (n, ...), as `forward` gives it.
            gold: labels of the same rows, as `Target.collate` gives them.
        """

    @abstractmethod
    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return predictions in the units of the data, with the fields that the task's target names.

        Args:
            output: (n, ...), or (m, ...) for the m items of n rows.
            items: where the items stand, for a head with `items`; others ignore it.
        """

    def predicted(self, output: Tensor) -> Tensor:
        """Return the part of an output that predicts, which `Target.divergence` compares: logits (n, classes) or scores (n,).

        Override it where the output carries more, because the loss needs more.
        """
        return output

    def why_no_graph(self) -> str:
        """Return why `decode` cannot be part of a graph of tensor operations, such as ONNX, as the rest of a sentence; "" if it can.

        `forward` has to be such operations in any case, without branches on the values of tensors and without `len` of a tensor.
        """
        return ""

    def compared_by_cosine(self) -> nn.Sequential | None:
        """Return the layers between the encoding of a text and the vectors whose cosine the head uses; None for other heads.

        They are dropout, linear layers and activations, so that sentence-transformers can hold them.
        """
        return None

    @classmethod
    def reads_any_text(cls, sides: int, target: Target) -> bool:
        """Return whether this head of a task can predict something for any text, so that an architecture can run it on the texts
        of other tasks: it needs no pair, choices or marks, and the prediction is no part of the text.

        Args:
            sides: encodings of a row of the task.
            target: of the task, fitted or not.
        """
        # The class is compared and not the size, which is 0 before a target with classes is fitted.
        return sides == 1 and cls.items in ("", "words") and type(target).feature_size is not Target.feature_size

    def observe(self, output: Tensor, gold: Tensors) -> None:
        """Update what the loss keeps from batch to batch, in buffers.

        Called once for each training micro-batch after its backward pass, with its output detached. Only this method changes
        buffers, because a batch can be run several times.
        """
