"""Relations by one linear layer on the vectors of two marked spans (Baldini Soares et al., ACL 2019, arXiv:1906.03158, section 3.3)."""

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.layers import ACTIVATIONS, Activation
from mtlcli.heads.outputs import output_for
from mtlcli.heads.tag_linear import items_of
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors

SpanVector = Annotated[
    Literal["first", "mean", "last"],
    Field(description="vector of a span: that of its first or last token, or the mean over them, markers included"),
]


class RelationHead(Head):
    """Classify the relation between head and tail from their vectors.

    A subclass builds what the last layer reads, `width` numbers.
    """

    items = "marked"

    def __init__(self, facts: HeadFacts, span: SpanVector, dropout: float, width: int) -> None:
        super().__init__(facts)
        self.span = span
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, facts.outputs)
        self.kind = output_for(facts.task)

    @abstractmethod
    def features(self, head: Tensor, tail: Tensor) -> Tensor:
        """Return what the last layer reads (n, width) of the vectors (n, dim) of head and tail."""

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return logits (n, classes) or standardized scores (n,)."""
        (encoding,) = encodings
        vectors = items_of(encoding).gather(encoding.tokens, self.span)
        # The items of a row are its head and its tail, in this order: (2 n, dim) to (n, 2, dim).
        pairs = vectors.view(-1, 2, vectors.shape[-1])
        return self.kind.shaped(self.out(self.dropout(self.features(pairs[:, 0], pairs[:, 1]))))

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy of each row, in training with the options of the task."""
        return self.kind.loss(output, gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the softmax and its largest class."""
        return self.kind.decode(output)


class RelationLinear(RelationHead):
    """Apply dropout and one linear layer to [h; t], the vectors of the first tokens of head and tail.

    With markers, the first token of a span is its opening marker: the "entity start" of the paper.
    """

    def __init__(
        self,
        facts: HeadFacts,
        *,
        span: SpanVector = "first",
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of the vectors zeroed in training")] = 0.1,
    ) -> None:
        super().__init__(facts, span, dropout, 2 * facts.dim)

    def features(self, head: Tensor, tail: Tensor) -> Tensor:
        """Return [h; t] (n, 2 * dim)."""
        return torch.cat([head, tail], dim=-1)


class RelationMLP(RelationHead):
    """Apply a hidden layer to [h; t; h * t; |h - t|], the mean vectors of head and tail.

    It needs no markers: with `markers: false`, the spans are read as they stand in the text.
    """

    def __init__(
        self,
        facts: HeadFacts,
        *,
        span: SpanVector = "mean",
        hidden: Annotated[int, Field(ge=1, description="width of the hidden layer")] = 256,
        activation: Annotated[Activation, Field(description="after the hidden layer")] = "relu",
        dropout: Annotated[float, Field(ge=0, lt=1, description="share zeroed before each layer in training")] = 0.1,
    ) -> None:
        super().__init__(facts, span, dropout, hidden)
        self.hidden = nn.Sequential(nn.Linear(4 * facts.dim, hidden), ACTIVATIONS[activation]())

    def features(self, head: Tensor, tail: Tensor) -> Tensor:
        """Return the hidden layer (n, hidden) of [h; t; h * t; |h - t|]."""
        both = torch.cat([head, tail, head * tail, (head - tail).abs()], dim=-1)
        hidden: Tensor = self.hidden(self.dropout(both))
        return hidden
