"""Encoder, head and decoding of tasks as one module from integer tensors to predictions, which can be exported as a graph."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mtlcli.architectures.base import HiddenStates
from mtlcli.data.batches import Batch
from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Arrays, Ragged

LOGITS = "logits"
OUTPUT_NAMES = {"value": "score"}
"""Names of outputs that differ from those of the predictions' fields."""

Inputs = tuple[Tensor, ...]


class TracedItems(Items):
    """Items whose mean vectors are computed without tensors of a size that depends on values."""

    def gather(self, tokens: Tensor, reading: str = "first") -> Tensor:
        """Return one vector for each item (m, dim), see `Items.gather`."""
        if reading != "mean":
            return super().gather(tokens, reading)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        inside = (place >= self.first.unsqueeze(1)) & (place <= self.last.unsqueeze(1))
        weights = inside.to(tokens.dtype) / inside.sum(1, keepdim=True).to(tokens.dtype)
        means: Tensor = torch.bmm(weights.unsqueeze(1), tokens.index_select(0, self.sequence)).squeeze(1)
        return means


class Graph(nn.Module):
    """Maps the token numbers of texts to the outputs of one or more tasks.

    `forward` takes the int64 tensors named by `inputs`, in their order, and returns the tensors named by `outputs`. All axes of
    inputs have names, and any size.

    Attributes:
        encodings: values of `tasks.NAME.encoding` that it reads.
        axes: names of the axes of every input that is always there.
        tasks: their indices.
        decoded: whether outputs are predictions; otherwise they are what the heads compute.
        with_types: whether `token_type_ids` is an input, because a row has texts of several types.
        has_types: whether the encoder has token types.
    """

    encodings: ClassVar[tuple[str, ...]]
    axes: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(
        self, model: MultiTaskModel, tasks: Sequence[int], *, decoded: bool, with_types: bool, has_types: bool
    ) -> None:
        super().__init__()
        self.model, self.tasks, self.decoded = model, tuple(tasks), decoded
        self.with_types, self.has_types = with_types, has_types
        # Before the trial pass, because a graph has no dropout.
        self.eval()
        with torch.no_grad():
            # By a trial pass, because only a head determines which fields it decodes.
            self.outputs = tuple(self.named(*self.example()))

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """The axes of all inputs, by name."""
        types = {"token_type_ids": self.axes["input_ids"]} if self.with_types else {}
        return {**self.axes, **types}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of their names."""
        return tuple(self.named(*inputs).values())

    @abstractmethod
    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name."""

    @abstractmethod
    def example(self) -> Inputs:
        """Return inputs with axes of different sizes, none of them 0 or 1, which an exporter would take for constants."""

    @abstractmethod
    def feed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return the inputs for a batch as arrays."""

    def predictions(self, task: int, outputs: Mapping[str, np.ndarray], batch: Batch) -> Arrays:
        """Return the outputs of a task for a batch, as `MultiTaskModel.decode` gives its predictions."""
        prefix = self.prefix(task)
        fields = {name: outputs[prefix + OUTPUT_NAMES.get(name, name)] for name in self.fields(task)}
        return Ragged(fields, None if batch.items is None else np.asarray(batch.items.starts))

    def fields(self, task: int) -> list[str]:
        """Return the fields of a task's predictions that are outputs."""
        prefix = self.prefix(task)
        originals = {output: field for field, output in OUTPUT_NAMES.items()}
        names = [name.removeprefix(prefix) for name in self.outputs if name.startswith(prefix)]
        # Beside predictions, logits are an additional output that `MultiTaskModel.decode` does not have.
        return [originals.get(name, name) for name in names if name != LOGITS or not self.decoded]

    def prefix(self, task: int) -> str:
        """Return what the names of a task's outputs begin with: nothing where it is the only one."""
        return f"{self.model.names[task]}." if len(self.tasks) > 1 else ""

    # For subclasses

    def batch(self, tokens: Tensor, mask: Tensor, types: Tensor | None, task: int, items: Items | None = None) -> Batch:
        """Return sequences as a batch, whose token types are 0 if the encoder has some and there are no others."""
        # As in batches of rows, which have types wherever the encoder has them.
        if types is None and self.has_types:
            types = torch.zeros_like(tokens)
        # Numbers of rows serve labels and noise in training, which a graph does not have.
        none = np.zeros(0, dtype=np.int64)
        # Tokenizers return the mask as integers; the model reads booleans.
        return Batch(task, 1, none, none, tokens, mask != 0, types, items, None, 0.0)

    def encoded(self, task: int, batch: Batch, states: HiddenStates | None = None) -> EncoderOutput:
        """Return what a task's head reads of a batch."""
        if states is None:
            states = self.model.states_of([task], batch)
        return self.model.encoder_output(task, self.model.features(task, batch, states), batch.mask, batch.items)

    def named_outputs(self, task: int, output: Tensor, items: Items | None = None) -> dict[str, Tensor]:
        """Return the outputs of a task by name: decoded predictions, and logits where they are a distribution's."""
        head, prefix = self.model.head(task), self.prefix(task)
        logits = head.predicted(output)
        if not self.decoded:
            return {f"{prefix}{LOGITS}": logits.float()}
        outputs = {}
        for name, tensor in self.model.head(task).decode(output, items).fields.items():
            plain = tensor.float() if tensor.is_floating_point() else tensor
            outputs[f"{prefix}{OUTPUT_NAMES.get(name, name)}"] = plain
        of_distribution = head.facts.task.target.logits(logits)
        return outputs if of_distribution is None else {**outputs, f"{prefix}{LOGITS}": of_distribution}


class SingleGraph(Graph):
    """One sequence a row: a text, or a joined pair. Tasks with the same states share a pass of the encoder."""

    encodings = ("single", "cross")
    axes = {"input_ids": ("rows", "length"), "attention_mask": ("rows", "length")}

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs of all tasks."""
        tokens, mask, *types = inputs
        outputs: dict[str, Tensor] = {}
        for group in self.model.pass_groups(self.tasks):
            batch = self.batch(tokens, mask, types[0] if types else None, group[0])
            states = self.model.states_of(group, batch)
            for task in group:
                output = self.model.head_output(task, (self.encoded(task, batch, states),))
                outputs |= self.named_outputs(task, output)
        return outputs

    def example(self) -> Inputs:
        """Return two rows of 7 and 4 tokens."""
        return _sequences((7, 4), self.with_types)

    def feed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return tokens, mask and types."""
        return _feed(batch, self.with_types)


class PairGraph(Graph):
    """The two texts of a row, encoded apart; each side has a length of its own."""

    encodings = ("bi",)
    axes = {
        "a_ids": ("rows", "a_length"), "a_mask": ("rows", "a_length"), "b_ids": ("rows", "b_length"), "b_mask": ("rows", "b_length"),
    }  # fmt: skip

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the task."""
        (task,) = self.tasks
        # Each text is encoded alone, so its token types are 0.
        sides = tuple(
            self.encoded(task, self.batch(tokens, mask, None, task)) for tokens, mask in (inputs[:2], inputs[2:])
        )
        return self.named_outputs(task, self.model.head_output(task, sides))

    def example(self) -> Inputs:
        """Return two rows of 7 and 4 tokens on one side, 3 and 5 on the other."""
        return (*_sequences((7, 4), False), *_sequences((3, 5), False))

    def feed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return tokens and mask of each side, cut to its longest text."""
        whole = _feed(batch, False)
        feed: dict[str, np.ndarray] = {}
        for side, rows in (("a", slice(0, batch.count)), ("b", slice(batch.count, None))):
            mask = whole["attention_mask"][rows]
            # A batch is padded on the right to the longest text of both sides.
            length = int(mask.sum(1).max())
            feed |= {f"{side}_ids": whole["input_ids"][rows, :length], f"{side}_mask": mask[:, :length]}
        return feed


class ItemGraph(Graph):
    """Items of texts, such as words: the sequence that each is in, counted from 0, and its first and last token there."""

    encodings = ("words", "spans")
    axes = {
        "input_ids": ("sequences", "length"), "attention_mask": ("sequences", "length"), "item_sequence": ("items",),
        "item_first": ("items",), "item_last": ("items",),
    }  # fmt: skip

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the task, whose first axis is that of the items."""
        (task,) = self.tasks
        tokens, mask, sequence, first, last, *types = inputs
        # Where rows begin is of no use to heads that decode item by item.
        rows = torch.zeros(2, dtype=torch.int64)
        items = TracedItems(rows, sequence, first, last, rows)
        batch = self.batch(tokens, mask, types[0] if types else None, task, items)
        return self.named_outputs(task, self.model.head_output(task, (self.encoded(task, batch),)), items)

    def example(self) -> Inputs:
        """Return two sequences with five items, of one or two tokens."""
        tokens, mask, *types = _sequences((7, 4), self.with_types)
        items = (torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 2, 4, 1, 2]), torch.tensor([1, 3, 4, 1, 2]))
        return (tokens, mask, *items, *types)

    def feed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return tokens, mask, items and types."""
        items = _items(batch)
        places = {"item_sequence": items.sequence, "item_first": items.first, "item_last": items.last}
        return {**_feed(batch, self.with_types), **{name: tensor.numpy() for name, tensor in places.items()}}


class MarkedGraph(Graph):
    """Two marked spans of a text, head and tail: first and last token of each."""

    encodings = ("marked",)
    axes = {
        "input_ids": ("rows", "length"), "attention_mask": ("rows", "length"), "head_first": ("rows",), "head_last": ("rows",),
        "tail_first": ("rows",), "tail_last": ("rows",),
    }  # fmt: skip

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the task."""
        (task,) = self.tasks
        tokens, mask, *spans = inputs
        head_first, head_last, tail_first, tail_last = spans
        row = torch.arange(tokens.shape[0])
        # Head and tail of a row are adjacent items, as in `feed` and as the head reads them.
        sequence = torch.stack([row, row], dim=1).flatten()
        first = torch.stack([head_first, tail_first], dim=1).flatten()
        last = torch.stack([head_last, tail_last], dim=1).flatten()
        rows = torch.zeros(2, dtype=torch.int64)
        items = TracedItems(rows, sequence, first, last, rows)
        batch = self.batch(tokens, mask, None, task, items)
        return self.named_outputs(task, self.model.head_output(task, (self.encoded(task, batch),)))

    def example(self) -> Inputs:
        """Return two rows."""
        spans = ([1, 3], [2, 3], [4, 1], [5, 1])
        return (*_sequences((7, 4), False), *map(torch.tensor, spans))

    def feed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return tokens, mask and the tokens of the spans."""
        items = _items(batch)
        first, last = items.first.numpy().reshape(-1, 2), items.last.numpy().reshape(-1, 2)
        spans = {"head_first": first[:, 0], "head_last": last[:, 0], "tail_first": first[:, 1], "tail_last": last[:, 1]}
        return {**_feed(batch, False), **spans}

    def predictions(self, task: int, outputs: Mapping[str, np.ndarray], batch: Batch) -> Arrays:
        """Return the outputs, one for each row."""
        return Ragged({name: outputs[OUTPUT_NAMES.get(name, name)] for name in self.fields(task)})


class ChoiceGraph(Graph):
    """Several choices a row, each a sequence with its question. A choice without any token is none: its probability is 0."""

    encodings = ("choices",)
    axes = {"input_ids": ("rows", "choices", "length"), "attention_mask": ("rows", "choices", "length")}

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the probability of each choice (rows, choices), and the most probable one (rows,)."""
        (task,) = self.tasks
        tokens, mask, *types = (tensor.flatten(0, 1) for tensor in inputs)
        exists = mask.sum(1) > 0
        # An encoder gives NaN for a sequence without tokens.
        filled = torch.cat([torch.where(exists, mask[:, 0], 1).unsqueeze(1), mask[:, 1:]], dim=1)
        number = torch.arange(tokens.shape[0])
        rows = torch.zeros(2, dtype=torch.int64)
        items = TracedItems(rows, number, torch.zeros_like(number), torch.zeros_like(number), rows)
        batch = self.batch(tokens, filled, types[0] if types else None, task, items)
        scores = self.model.head_output(task, (self.encoded(task, batch),))
        if scores.dim() != 1:
            raise MtlError("its head gives more than one score for each choice")
        scores = scores.float().masked_fill(~exists, -torch.inf).reshape(inputs[0].shape[0], inputs[0].shape[1])
        if not self.decoded:
            return {LOGITS: scores}
        probabilities = torch.softmax(scores, dim=1)
        return {"choice": probabilities.argmax(1), "probabilities": probabilities}

    def example(self) -> Inputs:
        """Return two rows of three choices."""
        return tuple(tensor.reshape(2, 3, -1) for tensor in _sequences((7, 4, 5, 3, 6, 2), self.with_types))

    def feed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return tokens, mask and types with as many choices as the row with the most has."""
        flat = _feed(batch, self.with_types)
        starts = _items(batch).rows.numpy()
        shape = (batch.count, int(np.diff(starts).max()), flat["input_ids"].shape[1])
        feed = {name: np.zeros(shape, dtype=np.int64) for name in flat}
        for row in range(batch.count):
            part = slice(starts[row], starts[row + 1])
            for name, array in feed.items():
                array[row, : part.stop - part.start] = flat[name][part]
        return feed

    def fields(self, task: int) -> list[str]:
        """Return the fields of predictions."""
        return ["chosen", "probabilities"] if self.decoded else [LOGITS]

    def predictions(self, task: int, outputs: Mapping[str, np.ndarray], batch: Batch) -> Arrays:
        """Return the outputs with the choices of one row after those of another."""
        starts = np.asarray(_items(batch).starts)
        counts = np.diff(starts)
        # (rows, choices): False where a row has fewer choices than the one with the most.
        exists = np.arange(counts.max()) < counts[:, None]
        if not self.decoded:
            return Ragged({LOGITS: outputs[LOGITS][exists]}, starts)
        is_choice = np.arange(counts.max()) == outputs["choice"][:, None]
        return Ragged(
            {"chosen": is_choice[exists].astype(np.int8), "probabilities": outputs["probabilities"][exists]}, starts
        )


GRAPHS: tuple[type[Graph], ...] = (SingleGraph, PairGraph, ItemGraph, MarkedGraph, ChoiceGraph)


def graph_of(encoding: str) -> type[Graph] | None:
    """Return the graph for a value of `tasks.NAME.encoding`; None for one that no graph reads."""
    return next((graph for graph in GRAPHS if encoding in graph.encodings), None)


def _items(batch: Batch) -> Items:
    if batch.items is None:
        raise ValueError("the rows of this batch have no items")
    return batch.items


def _sequences(lengths: Sequence[int], with_types: bool) -> Inputs:
    """Return tokens, mask and, if asked for, types of sequences of these lengths."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    types = (torch.zeros_like(mask),) if with_types else ()
    # Token 1 exists in every vocabulary; what it stands for does not matter here.
    return (torch.ones_like(mask), mask, *types)


def _feed(batch: Batch, with_types: bool) -> dict[str, np.ndarray]:
    # A batch without padding has no mask, but the graph always reads one.
    mask = torch.ones_like(batch.tokens) if batch.mask is None else batch.mask.long()
    feed = {"input_ids": batch.tokens.numpy(), "attention_mask": mask.numpy()}
    if with_types and batch.types is not None:
        feed["token_type_ids"] = batch.types.numpy()
    return feed
