"""Hidden states of texts whose encoder is frozen: computed once, read in every pass.

    at the start of a stage in which nothing that computes them is trainable, and when a run resumes within one (training.step.enter_stage):
        compute_features: every text through the encoder once, without dropout, in batches of similar length
    afterwards: Features.hidden(batch) gathers the states of a batch from one flat array for each layer

The batches in which texts are encoded depend on the lengths of all texts of a split alone, so that a resumed run reads the same
numbers.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mtlcli.architectures.base import HiddenStates
from mtlcli.data.batches import Batch, by_length, collate
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.distributed.world import World
from mtlcli.model.multitask import MultiTaskModel


@dataclass(frozen=True)
class Features:
    """Hidden states of the texts of one split, flat: those of token sequence i begin at `starts[i]`.

    Attributes:
        starts: (s,) int64, see `TokenizedSplit.sequence_starts`.
        states: (tokens of all texts, dim) each, the last hidden state first.
        layers: for each hidden state of the encoder, embeddings first, its place in `states`, None if it is not stored; empty
            where only the last one is read.
    """

    starts: Tensor
    states: tuple[Tensor, ...]
    layers: tuple[int | None, ...]

    def hidden(self, batch: Batch) -> HiddenStates:
        """Return the encoder's states for a batch (s, length, dim). After the end of a text, where masks are False, they
        are arbitrary."""
        device = self.starts.device
        sequences = torch.from_numpy(batch.sequences).to(device)
        positions = self.starts[sequences].unsqueeze(1) + torch.arange(batch.tokens.shape[1], device=device)
        # Padding of a text at the end of the array would lie outside of it.
        positions.clamp_(max=len(self.states[0]) - 1)
        gathered = [nn.functional.embedding(positions, states) for states in self.states]
        # An empty tensor for a layer that is not stored, so that the others keep their numbers.
        absent = gathered[0].new_empty(len(positions), 0, 0)
        return HiddenStates(gathered[0], tuple(absent if at is None else gathered[at] for at in self.layers))


@dataclass
class FrozenFeatures:
    """Features of training and of dev rows by task, those of dev also by split, for the current stage of a run.

    Attributes:
        stage: first step of the stage and the parts that it freezes, None before the first stage.
    """

    stage: tuple[int, tuple[str, ...]] | None = None
    train: dict[int, Features] = field(default_factory=dict)
    dev: dict[int, dict[str, Features]] = field(default_factory=dict)

    def forget(self, stage: tuple[int, tuple[str, ...]] | None = None) -> None:
        """Drop all features, because a stage begins or the run ends."""
        self.stage = stage
        self.train.clear()
        self.dev.clear()


def layers_read(model: MultiTaskModel, task: int) -> tuple[int, ...] | None:
    """Return the hidden states that a task's features and heads read besides the last one; None if these can be all."""
    read = [*model.architecture.layers_read(task)]
    for member in (task, *model.architecture.runs(task)):
        head, layer = model.head(member), model.layer_of(member)
        if head.all_layers and not head.further_layers:
            return None
        read += [*(() if layer == -1 else (layer,)), *(head.further_layers if head.all_layers else ())]
    return tuple(read)


@torch.no_grad()
def _states_of(
    model: MultiTaskModel, task: int, tokenized: TokenizedSplit, rows: np.ndarray, device: torch.device,
    autocast: AbstractContextManager[object],
) -> tuple[Batch, list[Tensor], tuple[int | None, ...]]:  # fmt: skip
    """Return rows as a batch, and the hidden states that the task reads: `states` and `layers` of Features."""
    batch = collate(tokenized, task, rows).to(device)
    with autocast:
        hidden = model.states_of([task], batch)
    wanted, count = layers_read(model, task), len(hidden.layers)
    numbers = set(range(count)) if wanted is None else {layer % count for layer in wanted}
    states = [hidden.last]
    layers: list[int | None] = [None] * count
    for number in sorted(numbers):
        layers[number] = 0
        # The last layer is `last` itself, which is stored once.
        if hidden.layers[number].data_ptr() != hidden.last.data_ptr():
            layers[number] = len(states)
            states.append(hidden.layers[number])
    return batch, states, tuple(layers)


def size_of(
    model: MultiTaskModel,
    task: int,
    tokenized: TokenizedSplit,
    device: torch.device,
    autocast: AbstractContextManager[object],
) -> int:
    """Return the bytes that the hidden states of a split need."""
    # Width and dtype of the states are the same for every text, so the shortest will do.
    shortest = np.argsort(tokenized.lengths())[:1]
    _, states, _ = _states_of(model, task, tokenized, shortest, device, autocast)
    tokens = sum(int(side.starts[-1]) for side in tokenized.sides)
    return tokens * sum(state.shape[-1] * state.element_size() for state in states)


@torch.no_grad()
def compute_features(
    model: MultiTaskModel,
    task: int,
    tokenized: TokenizedSplit,
    device: torch.device,
    autocast: AbstractContextManager[object],
    world: World | None = None,
) -> Features:
    """Encode every text of a split once, in parts by the processes. The encoder must be in evaluation mode."""
    starts = tokenized.sequence_starts()
    size = sum(int(side.starts[-1]) for side in tokenized.sides)
    stored: tuple[Tensor, ...] = ()
    layers: tuple[int | None, ...] = ()
    batches = by_length(tokenized.lengths())
    # With fewer batches than processes, each encodes all of them, so that each knows which states there are.
    together = world if world is not None and not model.is_sharded and 1 < world.size <= len(batches) else None
    for rows in batches if together is None else batches[together.share(len(batches))]:
        batch, states, layers = _states_of(model, task, tokenized, rows, device, autocast)
        stored = stored or tuple(state.new_zeros(size, state.shape[-1]) for state in states)
        # States of padding are not stored.
        mask = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
        first = torch.from_numpy(starts[batch.sequences]).unsqueeze(1).to(device)
        places = (first + torch.arange(mask.shape[1], device=device))[mask]
        for held, state in zip(stored, states, strict=True):
            held[places] = state[mask]
    if together is not None:
        for held in stored:
            together.sum_(held)  # each place is 0 in all processes but one
    return Features(torch.from_numpy(starts).to(device), stored, layers)
