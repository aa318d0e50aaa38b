"""Encoder, architecture and heads as one module: from batches to outputs and losses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, HiddenStates, Inputs
from mtlcli.data.batches import Batch
from mtlcli.errors import MtlError, suggest
from mtlcli.heads.base import EncoderOutput, Head
from mtlcli.heads.pooling import pool
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
        self._trainable = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        self._frozen: tuple[str, ...] = ()

    def freeze(self, parts: tuple[str, ...]) -> None:
        """Freeze these parts, and make all other parameters trainable that were so at first.

        Args:
            parts: `encoder` (everything before the heads), `embeddings`, `layer.N` counted from 0, `heads`, or a task's name for
                its head, except for parameters that another head shares.

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
                names = ["encoder", "embeddings", "layer.0", "heads", *self.names]
                raise MtlError(f'freeze: no part "{part}" with trainable parameters{suggest(part, names)}')
        frozen_ids = {id(parameter) for members in frozen.values() for parameter in members}
        if len(frozen_ids) == len(self._trainable):
            raise MtlError(f"freeze: {', '.join(parts)} leaves no trainable parameter")
        for _, parameter in self._trainable:
            parameter.requires_grad_(id(parameter) not in frozen_ids)
        self._frozen = parts
        self.train(self.training)

    def train(self, mode: bool = True) -> "MultiTaskModel":
        """Set the mode. A wholly frozen encoder stays in evaluation mode: its features are those of inference, without dropout."""
        super().train(mode)
        if self.encoder_is_frozen:
            self.architecture.eval()
        return self

    @property
    def encoder_is_frozen(self) -> bool:
        """True if no parameter before the heads is trainable, so that features can be cached."""
        return not any(parameter.requires_grad for parameter in self.architecture.parameters())

    def is_trainable(self, task: int) -> bool:
        """Return whether a parameter that this task uses is trainable."""
        return not self.encoder_is_frozen or any(p.requires_grad for p in self.heads[task].parameters())

    def _is_part(self, name: str, part: str) -> bool:
        if part in self.names:
            return name.startswith(f"heads.{self.names.index(part)}.")
        if part == "heads":
            return name.startswith("heads.")
        inside = name.startswith("architecture.")
        return inside and (part == "encoder" or f".{part}." in name) and not part.isdigit()

    def head(self, task: int) -> Head:
        """Return the head of a task."""
        head = self.heads[task]
        if not isinstance(head, Head):
            raise TypeError(f"{head} is not a Head")
        return head

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters that several tasks can use, whose gradients are combined."""
        return [parameter for _, parameter in self.named_shared_parameters()]

    def named_shared_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the shared parameters with their names."""
        owned = {id(parameter) for task in range(len(self.names)) for parameter in self.private_parameters(task)}
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad and id(p) not in owned]

    def private_parameters(self, task: int) -> list[nn.Parameter]:
        """Return the trainable parameters that this task alone uses: those of its head that no other head shares."""
        elsewhere = {id(p) for other, head in enumerate(self.heads) if other != task for p in head.parameters()}
        mine = [*self.heads[task].parameters(), *self.architecture.private_parameters(task)]
        return [p for p in dict.fromkeys(mine) if p.requires_grad and id(p) not in elsewhere]

    def forward(self, task: int, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Return the task's output (n, ...) for a batch: from its tokens, or from word embeddings in their place."""
        hidden = self.hidden(task, self.inputs(task, batch, embeddings))
        return self.output(task, batch, hidden)

    def inputs(self, task: int, batch: Batch, embeddings: Tensor | None = None) -> Inputs:
        """Return the encoder's inputs for a batch of this task."""
        return Inputs(batch.tokens, batch.mask, batch.types, embeddings, self.wants_all_layers([task]))

    def wants_all_layers(self, tasks: Sequence[int]) -> bool:
        """Return whether one of these tasks reads more than the last layer."""
        return any(self.head(task).all_layers or self.layer_of(task) != -1 for task in tasks)

    def feature_groups(self, tasks: Sequence[int]) -> list[list[int]]:
        """Return these tasks in groups, each of which has the same features for the same texts: one pass serves its tasks."""
        return [list(tasks)] if self.architecture.task_independent and tasks else [[task] for task in tasks]

    def features_of(self, tasks: Sequence[int], batch: Batch) -> HiddenStates:
        """Return the features of a batch for all tasks of one feature group, with every layer that one of them reads."""
        return self.hidden(tasks[0], replace(self.inputs(tasks[0], batch), all_layers=self.wants_all_layers(tasks)))

    def layer_of(self, task: int) -> int:
        """Return the hidden layer that a task's head reads."""
        layer = self.head(task).layer
        return self.layer if layer is None else layer

    def hidden(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the features of a batch for this task."""
        hidden = self.architecture(task, inputs)
        if not isinstance(hidden, HiddenStates):
            raise TypeError("an architecture returns HiddenStates")
        return hidden

    def output(self, task: int, batch: Batch, hidden: HiddenStates) -> Tensor:
        """Return the head's output for hidden states (s, length, dim) of the batch's sequences."""
        head, layer, mask = self.head(task), self.layer_of(task), batch.mask
        tokens = hidden.last if layer == -1 else hidden.layers[layer]
        pooled = self.pooled(task, hidden, mask)
        full = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        layers = hidden.layers if head.all_layers else ()
        n = len(tokens) // batch.sides
        encodings = tuple(
            EncoderOutput(tokens[part], full[part], pooled[part], tuple(state[part] for state in layers), batch.items)
            for part in (slice(side * n, (side + 1) * n) for side in range(batch.sides))
        )
        output = head(encodings)
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
