"""Tags by one linear layer on the vector of each word (Devlin et al., NAACL 2019, arXiv:1810.04805, section 5.3)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.cross_entropy import CrossEntropy
from mtlcli.tasks.items import Items
from mtlcli.tasks.tags import UNKNOWN, Tags
from mtlcli.tasks.targets import Ragged, Tensors

WordVector = Annotated[
    Literal["first", "mean", "last"],
    Field(description="vector of a word: that of its first or last token, or the mean over them"),
]


class TagLinear(Head):
    """Classify each word by dropout and one linear layer.

    The loss is the cross-entropy of each word, in training with the options of the task. Decoding finds the best sequence of tags
    that the scheme allows, so that every predicted span is well formed; with `decode: argmax` it is the best tag of each word.
    """

    items = "words"

    def __init__(
        self,
        facts: HeadFacts,
        *,
        word: WordVector = "first",
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of a word's vector zeroed in training")] = 0.1,
        decode: Annotated[
            Literal["valid", "argmax"], Field(description="the best allowed sequence, or the best tag of each word")
        ] = "valid",
    ) -> None:
        super().__init__(facts)
        self.target = tags_of(facts)
        self.word, self.decoding = word, decode
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(facts.dim, facts.outputs)
        self.cross_entropy = CrossEntropy(facts.task.class_loss)

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return logits (m, tags) of the m words of all rows."""
        vectors = items_of(encodings[0]).gather(encodings[0].tokens, self.word)
        logits: Tensor = self.out(self.dropout(vectors))
        return logits

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the sum of the cross-entropy of each row's words with a tag that training has.

        Under a teacher's `probabilities` p (m, C) it is sum_c p_c L(c) for every word.
        """
        if "probabilities" in gold:
            # Each tag in turn serves as the label of all words, so the options of the task apply as they do to labels.
            shares = gold["probabilities"].to(output.device, torch.float32)
            losses = [
                share * self.cross_entropy(output, torch.full_like(gold["tag"], tag))
                for tag, share in enumerate(shares.T)
            ]
            return sum_by_row(torch.stack(losses).sum(0), gold)
        # A tag that training never saw has an index beyond the classes, which the cross-entropy cannot read.
        tags = torch.where(self.target.known(gold), gold["tag"], UNKNOWN)
        return sum_by_row(self.cross_entropy(output, tags), gold)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return tags and their probabilities, word by word."""
        if items is None:
            raise ValueError("tags of no words")
        probabilities = torch.softmax(output.float(), dim=-1)
        # Plain tensor operations, which can be exported to ONNX.
        if self.decoding == "argmax":
            return Ragged({"tag": probabilities.argmax(-1), "probabilities": probabilities}, items.starts)
        return self.target.decoded(probabilities.cpu().numpy(), items.starts.cpu().numpy()).tensors()

    def why_no_graph(self) -> str:
        """Return that the best sequence is found word by word; `decode: argmax` is plain operations."""
        return "" if self.decoding == "argmax" else "it searches the best allowed sequence of tags word by word"


def tags_of(facts: HeadFacts) -> Tags:
    """Return the task's target.

    Raises:
        MtlError: it is not one tag a word.
    """
    if not isinstance(facts.task.target, Tags):
        raise MtlError(
            f"tasks.{facts.task.name}.head: this head predicts a tag for each word, and the task {facts.task.target.describe()}; "
            "use another head"
        )
    return facts.task.target


def items_of(encoding: EncoderOutput) -> Items:
    """Return the items of an encoding that has some."""
    if encoding.items is None:
        raise ValueError("the rows of this batch have no items")
    return encoding.items


def sum_by_row(values: Tensor, rows: Tensors) -> Tensor:
    """Return the sum over the items (m,) of each row (n,)."""
    if rows.starts is None:
        return values
    # Differences of running sums, in float64 because the later rows of a long batch would lose digits in float32.
    before = torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    return (before[rows.starts[1:]] - before[rows.starts[:-1]]).to(values.dtype)
