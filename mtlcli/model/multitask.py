"""Encoder, architecture and heads as one module: from batches to outputs and losses."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, HiddenStates, Inputs, Part, part_of
from mtlcli.architectures.layers import distinct_blocks
from mtlcli.data.batches import Batch
from mtlcli.distributed.sharding import shard
from mtlcli.errors import MtlError, suggest
from mtlcli.heads.base import EncoderOutput, Head
from mtlcli.heads.pooling import pool
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


class MultiTaskModel(nn.Module):
    """One architecture around one encoder, and one head for each task, in the order of `names`.

    `pooling` and `layer` apply to all heads that set no layer; layer -1 is the encoder's last.
    """

    def __init__(
        self, architecture: Architecture, heads: Mapping[str, Head], *, pooling: str = "mean", layer: int = -1
    ) -> None:
        super().__init__()
        self.names = list(heads)
        self.architecture = architecture
        self.heads = nn.ModuleList(heads.values())
        self.pooling, self.layer = pooling, layer
        self.is_sharded = False
        # The parameters that are trainable at first: `freeze` makes no others trainable.
        self._trainable = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        self._frozen: tuple[str, ...] = ()
        self._passes: dict[int, Hashable] = {}

    def shard_encoder(self, device: torch.device, size: int) -> None:
        """Divide the encoder over the processes, layer by layer; heads stay whole. Nothing may be frozen yet."""
        encoder = self.architecture.encoder
        layers = [encoder.get_submodule(name) for name in distinct_blocks(encoder)]
        words = encoder.get_input_embeddings()  # type: ignore[operator]
        # Word embeddings are a separate unit, because `word_embeddings` calls them without the encoder.
        shard(encoder, [words, *layers], device, size)
        self.is_sharded = True
        # The parameters are other objects now.
        self._trainable = [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    def freeze(self, parts: tuple[str, ...]) -> None:
        """Freeze these parts, and make all other parameters trainable that were so at first.

        Args:
            parts: `encoder`, `architecture` (everything before the heads), one of its modules such as `adapters`, `embeddings`,
                `layer.N` counted from 0, `heads`, or a task's name for its head, except for parameters that another head shares.

        Raises:
            MtlError: a part does not exist, or nothing would be trainable.
        """
        if parts == self._frozen:
            return
        holders = Counter(id(p) for head in self.heads for p in set(head.parameters()))
        frozen = {
            part: [
                p
                for name, p in self._trainable
                if self._is_part(name, part) and not (part in self.names and holders[id(p)] > 1)
            ]
            for part in parts
        }
        for part, members in frozen.items():
            if not members:
                modules = [name for name, _ in self.architecture.named_children() if name != "encoder"]
                names = ["encoder", "architecture", *modules, "embeddings", "layer.0", "heads", *self.names]
                raise MtlError(f'freeze: no part "{part}" with trainable parameters{suggest(part, names)}')
        frozen_ids = {id(parameter) for members in frozen.values() for parameter in members}
        if len(frozen_ids) == len(self._trainable):
            raise MtlError(f"freeze: {', '.join(parts)} leaves no trainable parameter")
        for _, parameter in self._trainable:
            parameter.requires_grad_(id(parameter) not in frozen_ids)
        self._frozen = parts
        # The mode of the modules below the heads depends on what is trainable.
        self.train(self.training)

    def train(self, mode: bool = True) -> "MultiTaskModel":
        """Set the mode. While `states_are_frozen`, what computes them stays in evaluation mode: without dropout, as in inference."""
        super().train(mode)
        if self.states_are_frozen:
            for module in self.architecture.below():
                module.eval()
        return self

    @property
    def states_are_frozen(self) -> bool:
        """True if no parameter that computes the architecture's states is trainable, so that they can be cached."""
        modules = self.architecture.below()
        return not any(parameter.requires_grad for module in modules for parameter in module.parameters())

    def frozen_names(self) -> frozenset[str]:
        """Return the names of the parameters that no stage of a run trains; buffers are not among them."""
        trainable = {name for name, _ in self._trainable}
        return frozenset(name for name, _ in self.named_parameters() if name not in trainable)

    def is_trainable(self, task: int) -> bool:
        """Return whether a parameter that this task uses is trainable."""
        tasks_of = self.tasks_of_parameters()
        used = [(p, tasks_of[id(p)]) for p in self.parameters() if p.requires_grad]
        return any(tasks is None or task in tasks for _, tasks in used)

    def _is_part(self, name: str, part: str) -> bool:
        if part in self.names:
            return name.startswith(f"heads.{self.names.index(part)}.")
        if part == "heads":
            return name.startswith("heads.")
        inside = name.startswith("architecture.")
        if part == "encoder":
            return inside and name in self._encoder_names
        # A number alone would match every numbered module, not a layer.
        return inside and (part == "architecture" or f".{part}." in name) and not part.isdigit()

    @cached_property
    def _encoder_names(self) -> frozenset[str]:
        """Return the names of the parameters of the encoder, and of its copies if tasks have separate layers."""
        encoders = {id(p) for module in self.architecture.encoders() for p in module.parameters()}
        return frozenset(name for name, p in self.named_parameters() if id(p) in encoders)

    def head(self, task: int) -> Head:
        """Return the head of a task."""
        head = self.heads[task]
        if not isinstance(head, Head):
            raise TypeError(f"{head} is not a Head")
        return head

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters that several tasks can use and whose gradients methods combine."""
        return [parameter for _, parameter in self.named_shared_parameters()]

    def named_shared_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the shared parameters with their names."""
        return [(name, p) for name, p in self._several_tasks() if not self.part_of(name).apart]

    def apart_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters that several tasks can use and whose gradients are a plain weighted sum, see `Part.apart`."""
        return [p for name, p in self._several_tasks() if self.part_of(name).apart]

    def private_parameters(self, task: int) -> list[nn.Parameter]:
        """Return the trainable parameters that this task alone uses: of its head, and of its parts of the architecture."""
        tasks_of = self.tasks_of_parameters()
        return [p for p in self.parameters() if p.requires_grad and tasks_of[id(p)] == {task}]

    def part_of(self, name: str) -> Part:
        """Return the part of the architecture that a parameter belongs to, by its name in this model."""
        return part_of(name.removeprefix("architecture."), self.architecture.parts())

    def _several_tasks(self) -> list[tuple[str, nn.Parameter]]:
        private = {id(p) for task in range(len(self.names)) for p in self.private_parameters(task)}
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad and id(p) not in private]

    def tasks_of_parameters(self) -> dict[int, set[int] | None]:
        """Return the tasks that use each parameter, by the parameter's id; None where the architecture shares it among all."""
        parts = self.architecture.parts()
        tasks_of: dict[int, set[int] | None] = {}
        for name, parameter in self.architecture.named_parameters():
            tasks = part_of(name, parts).tasks
            tasks_of[id(parameter)] = None if tasks is None else set(tasks)
        for task, head in enumerate(self.heads):
            # Tasks whose features read this head send gradients through it.
            readers = {other for other in range(len(self.names)) if task in self.architecture.reads(other)}
            for parameter in head.parameters():
                # A parameter that a head shares with the architecture keeps None: all tasks use it.
                of_heads = tasks_of.setdefault(id(parameter), set())
                if of_heads is not None:
                    of_heads |= {task} | readers
        return tasks_of

    def forward(self, task: int, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Return the task's output (n, ...) for a batch: from its tokens, or from word embeddings in their place."""
        return self.output(task, batch, self.hidden(task, self.inputs(task, batch, embeddings)))

    def inputs(self, task: int, batch: Batch, embeddings: Tensor | None = None) -> Inputs:
        """Return the encoder's inputs for a batch of this task."""
        return Inputs(
            batch.tokens, batch.mask, batch.types, embeddings, self.wants_all_layers([task]),
            read=lambda other, hidden: self.read(other, batch, hidden),
        )  # fmt: skip

    def read(self, task: int, batch: Batch, hidden: HiddenStates) -> Tensor:
        """Return what the head of a task predicts for each text of a batch of another task, see `Inputs.read`."""
        head, target = self.head(task), self.head(task).facts.task.target
        if not head.items:
            return target.as_features(head.predicted(self.output(task, replace(batch, sides=1, items=None), hidden)))
        mask = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
        every_token = replace(batch, sides=1, items=Items.of_tokens(mask))
        features = target.as_features(head.predicted(self.output(task, every_token, hidden)))
        empty = features.new_zeros(*mask.shape, features.shape[-1])
        # Items are in the order of mask.nonzero(), the order in which masked_scatter takes them.
        return empty.masked_scatter(mask.unsqueeze(-1), features)

    def wants_all_layers(self, tasks: Sequence[int]) -> bool:
        """Return whether the head or the features of one of these tasks, or a head that they run, read more than the last layer."""
        tasks = [*tasks, *(other for task in tasks for other in self.architecture.runs(task))]
        return any(
            self.head(task).all_layers or self.layer_of(task) != -1 or self.architecture.layers_read(task)
            for task in tasks
        )

    def pass_of(self, task: int) -> Hashable:
        """Return a key that is equal for tasks whose texts one pass of the encoder can serve, see `Architecture.pass_of`."""
        # Stored, because every step needs it and the default searches the names of all parameters.
        if task not in self._passes:
            self._passes[task] = self.architecture.pass_of(task)
        return self._passes[task]

    def pass_groups(self, tasks: Sequence[int]) -> list[list[int]]:
        """Return these tasks in groups, each of which has the same states for the same texts: one pass serves its tasks."""
        groups: dict[Hashable, list[int]] = {}
        for task in tasks:
            groups.setdefault(self.pass_of(task), []).append(task)
        return [*groups.values()]

    def states_of(self, tasks: Sequence[int], batch: Batch) -> HiddenStates:
        """Return the states of a batch for all tasks of one pass group, with every layer that one of them reads."""
        inputs = replace(self.inputs(tasks[0], batch), all_layers=self.wants_all_layers(tasks))
        return self.architecture.states(tasks[0], inputs)

    def features(self, task: int, batch: Batch, states: HiddenStates) -> HiddenStates:
        """Return the features of a batch for a task, from the states of its pass."""
        return self._checked(self.architecture.features(task, states, self.inputs(task, batch)))

    def layer_of(self, task: int) -> int:
        """Return the hidden layer that a task's head reads."""
        layer = self.head(task).layer
        return self.layer if layer is None else layer

    def hidden(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the features of a batch for this task."""
        return self._checked(self.architecture(task, inputs))

    def _checked(self, hidden: object) -> HiddenStates:
        if not isinstance(hidden, HiddenStates):
            raise TypeError("an architecture returns HiddenStates")
        return hidden

    def output(self, task: int, batch: Batch, hidden: HiddenStates) -> Tensor:
        """Return the head's output for hidden states (s, length, dim) of the batch's sequences."""
        whole = self.encoder_output(task, hidden, batch.mask, batch.items)
        if batch.sides == 1:
            return self.head_output(task, (whole,))
        # The first sides of all rows come before the second ones, see `Batch.tokens`.
        n = len(whole.tokens) // batch.sides
        parts = (slice(side * n, (side + 1) * n) for side in range(batch.sides))
        return self.head_output(task, tuple(whole.part(rows) for rows in parts))

    def encoder_output(
        self, task: int, hidden: HiddenStates, mask: Tensor | None, items: Items | None = None
    ) -> EncoderOutput:
        """Return what a task's head reads of hidden states (s, length, dim)."""
        layer = self.layer_of(task)
        tokens = hidden.last if layer == -1 else hidden.layers[layer]
        full = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        layers = hidden.layers if self.head(task).all_layers else ()
        return EncoderOutput(tokens, full, self.pooled(task, hidden, mask), layers, items)

    def head_output(self, task: int, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return the head's output for the encodings of one or two sides."""
        output = self.head(task)(encodings)
        if not isinstance(output, Tensor):
            raise TypeError("a head returns a tensor")
        return output

    def decode(self, task: int, output: Tensor, batch: Batch) -> Tensors:
        """Return the predictions of an output for a batch."""
        return self.head(task).decode(output, batch.items)

    def losses(self, task: int, output: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each row (n,) float32, see `Head.loss`."""
        if batch.gold is None:
            raise ValueError("a batch without labels has no loss")
        return self.head(task).loss(output, batch.gold).float()

    def pooled(self, task: int, hidden: HiddenStates, mask: Tensor | None) -> Tensor:
        """Return the encodings that a task's head reads (sides * n, dim)."""
        layer = self.layer_of(task)
        return pool(hidden.last if layer == -1 else hidden.layers[layer], mask, self.pooling)

    def word_embeddings(self, task: int, tokens: Tensor) -> Tensor:
        """Return the encoder's word embeddings (n, length, dim) of tokens (n, length)."""
        embeddings = self.architecture.encoder_of(task).get_input_embeddings()(tokens)  # type: ignore[operator]
        if not isinstance(embeddings, Tensor):
            raise TypeError("the encoder's input embeddings returned no tensor")
        return embeddings
