"""Encoder, architecture and heads as one module: batch -> output, loss and prediction."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, HiddenStates, Inputs
from mtlcli.data.batches import Batch
from mtlcli.errors import MtlError, suggest
from mtlcli.heads.base import EncoderOutput, Head
from mtlcli.heads.pooling import pool


class MultiTaskModel(nn.Module):
    """One architecture around one encoder, and one head per task, in the order of `names`.

    `pooling` and `layer` are what heads read unless they say otherwise; layer -1 is the encoder's last.
    """

    def __init__(
        self, architecture: Architecture, heads: Mapping[str, Head], *, pooling: str = "mean", layer: int = -1
    ) -> None:
        super().__init__()
        self.names = list(heads)
        self.architecture = architecture
        self.heads = nn.ModuleList(heads.values())
        self.pooling, self.layer = pooling, layer
        self._can_learn = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        self._frozen: tuple[str, ...] = ()

    def freeze(self, parts: tuple[str, ...]) -> None:
        """Lets everything learn that could at first, but for these parts: `encoder` (all that stands before the heads),
        `embeddings`, `layer.N` counted from 0, `heads`, or a task's name for its head, less what another head also holds.
        Raises MtlError for a part that is not there."""
        if parts == self._frozen:
            return
        holders = Counter(id(p) for head in self.heads for p in set(head.parameters()))
        chosen = {
            part: [
                p
                for name, p in self._can_learn
                if self._is_part(name, part) and not (part in self.names and holders[id(p)] > 1)
            ]
            for part in parts
        }
        for part, members in chosen.items():
            if not members:
                known = ["encoder", "embeddings", "layer.0", "heads", *self.names]
                raise MtlError(f'freeze: there is no part "{part}" with anything to learn{suggest(part, known)}')
        still = {id(parameter) for members in chosen.values() for parameter in members}
        if len(still) == len(self._can_learn):
            raise MtlError(f"freeze: {', '.join(parts)} leaves nothing that learns")
        for _, parameter in self._can_learn:
            parameter.requires_grad_(id(parameter) not in still)
        self._frozen = parts
        self.train(self.training)

    def train(self, mode: bool = True) -> "MultiTaskModel":
        """Training mode, in which an encoder that is frozen whole gives the features it gives in use: without dropout."""
        super().train(mode)
        if self.encoder_is_frozen:
            self.architecture.eval()
        return self

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether nothing before the heads learns, so that a text's features stay what they are."""
        return not any(parameter.requires_grad for parameter in self.architecture.parameters())

    def is_trainable(self, task: int) -> bool:
        """Whether anything that this task uses can learn."""
        return not self.encoder_is_frozen or any(p.requires_grad for p in self.heads[task].parameters())

    def _is_part(self, name: str, part: str) -> bool:
        if part in self.names:
            return name.startswith(f"heads.{self.names.index(part)}.")
        if part == "heads":
            return name.startswith("heads.")
        inside = name.startswith("architecture.")
        return inside and (part == "encoder" or f".{part}." in name) and not part.isdigit()

    def head(self, task: int) -> Head:
        """The head of a task."""
        head = self.heads[task]
        if not isinstance(head, Head):
            raise TypeError(f"{head} is not a Head")
        return head

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that more than one task may use: what gradient regularizers combine."""
        return [parameter for _, parameter in self.named_shared_parameters()]

    def named_shared_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The same with their names."""
        owned = {id(parameter) for task in range(len(self.names)) for parameter in self.private_parameters(task)}
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad and id(p) not in owned]

    def private_parameters(self, task: int) -> list[nn.Parameter]:
        """Trainable parameters that this task alone uses: those of its head, less what another head also holds."""
        elsewhere = {id(p) for other, head in enumerate(self.heads) if other != task for p in head.parameters()}
        mine = [*self.heads[task].parameters(), *self.architecture.private_parameters(task)]
        return [p for p in dict.fromkeys(mine) if p.requires_grad and id(p) not in elsewhere]

    def forward(self, task: int, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """The task's output for a batch (n, ...): from its tokens, or from word embeddings in their place."""
        hidden = self.hidden(task, self.inputs(task, batch, embeddings))
        return self.output(task, batch.sides, hidden, batch.mask)

    def inputs(self, task: int, batch: Batch, embeddings: Tensor | None = None) -> Inputs:
        """What the encoder gets for a batch of this task."""
        return Inputs(batch.tokens, batch.mask, batch.types, embeddings, self.wants_all_layers([task]))

    def wants_all_layers(self, tasks: Sequence[int]) -> bool:
        """Whether any of these tasks reads more than the last layer."""
        return any(self.head(task).all_layers or self.layer_of(task) != -1 for task in tasks)

    def layer_of(self, task: int) -> int:
        """Hidden layer that a task's head reads."""
        own = self.head(task).layer
        return self.layer if own is None else own

    def hidden(self, task: int, inputs: Inputs) -> HiddenStates:
        """The features of a batch, as the architecture gives them to this task."""
        hidden = self.architecture(task, inputs)
        if not isinstance(hidden, HiddenStates):
            raise TypeError("an architecture returns Hidden")
        return hidden

    def output(self, task: int, sides: int, hidden: HiddenStates, mask: Tensor | None) -> Tensor:
        """The head's output from hidden states (sides * n, length, dim)."""
        head, layer = self.head(task), self.layer_of(task)
        tokens = hidden.last if layer == -1 else hidden.layers[layer]
        pooled = self.pooled(task, hidden, mask)
        full = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        layers = hidden.layers if head.all_layers else ()
        n = len(tokens) // sides
        encodings = tuple(
            EncoderOutput(tokens[part], full[part], pooled[part], tuple(one[part] for one in layers))
            for part in (slice(side * n, (side + 1) * n) for side in range(sides))
        )
        output = head(encodings)
        if not isinstance(output, Tensor):
            raise TypeError("a head returns a tensor")
        return output

    def losses(self, task: int, output: Tensor, batch: Batch) -> Tensor:
        """Loss of each row (n,), float32."""
        if batch.targets is None:
            raise ValueError("a batch without labels has no loss")
        return self.head(task).loss(output, batch.targets).float()

    def pooled(self, task: int, hidden: HiddenStates, mask: Tensor | None) -> Tensor:
        """The encodings that a task's head reads (sides * n, dim)."""
        layer = self.layer_of(task)
        return pool(hidden.last if layer == -1 else hidden.layers[layer], mask, self.pooling)

    def word_embeddings(self, task: int, tokens: Tensor) -> Tensor:
        """What the task's encoder looks up for tokens (n, length) -> (n, length, dim)."""
        found = self.architecture.encoder_of(task).get_input_embeddings()(tokens)  # type: ignore[operator]
        if not isinstance(found, Tensor):
            raise TypeError("the encoder's input embeddings gave no tensor")
        return found
