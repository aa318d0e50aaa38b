"""Hidden states of texts whose encoder stands still: made once, read in every pass.

    at the start of a stage that freezes the encoder whole, and when a run goes on within one (stepping.enter_stage):
        keep(task, encoded): every text through the encoder once, without dropout, in batches of similar length
    from then on: hidden(batch) gathers its states from one flat array a layer

The batches in which texts are encoded depend on the lengths of all texts of a split and on nothing else, so that a run that was
interrupted and resumed reads the same numbers.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mtlcli.architectures.base import HiddenStates
from mtlcli.data.batches import Batch, by_length, collate
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.model.multitask import MultiTaskModel


@dataclass(frozen=True)
class Features:
    """Hidden states of the texts of one split, flat: those of text (side, row) are rows `starts[side, row]` onwards.

    starts (sides, n) int64; states hold (tokens of all texts, dim) each, the last hidden state first; `layers` says of every
    hidden state of the encoder, embeddings first, where among the states it is, None for one that is not kept, and is empty
    where nothing but the last is read.
    """

    starts: Tensor
    states: tuple[Tensor, ...]
    layers: tuple[int | None, ...]

    def hidden(self, batch: Batch) -> HiddenStates:
        """What the encoder would give for the batch (sides * n, length, dim), except behind the end of a text, where masks
        are False and states are those of any other text."""
        device = self.starts.device
        rows = torch.from_numpy(batch.rows).to(device)
        positions = self.starts[:, rows].reshape(-1, 1) + torch.arange(batch.tokens.shape[1], device=device)
        positions.clamp_(max=len(self.states[0]) - 1)
        found = [nn.functional.embedding(positions, states) for states in self.states]
        absent = found[0].new_empty(len(positions), 0, 0)
        return HiddenStates(found[0], tuple(absent if at is None else found[at] for at in self.layers))


@dataclass
class FrozenFeatures:
    """What a run holds of its present stage, by task: features of training and of dev rows. `stage` is the step the stage
    began at and what it freezes, None before the first."""

    stage: tuple[int, tuple[str, ...]] | None = None
    train: dict[int, Features] = field(default_factory=dict)
    dev: dict[int, Features] = field(default_factory=dict)

    def forget(self, stage: tuple[int, tuple[str, ...]] | None = None) -> None:
        """Another stage begins, or none."""
        self.stage = stage
        self.train.clear()
        self.dev.clear()


def layers_read(model: MultiTaskModel, task: int) -> tuple[int, ...] | None:
    """Hidden states that a task's head reads besides the last one, as it names them; None where it may read all."""
    head, layer = model.head(task), model.layer_of(task)
    own = () if layer == -1 else (layer,)
    if not head.all_layers:
        return own
    return (*own, *head.further_layers) if head.further_layers else None


@torch.no_grad()
def _states_of(
    model: MultiTaskModel, task: int, tokenized: TokenizedSplit, rows: np.ndarray, device: torch.device,
    autocast: AbstractContextManager[object],
) -> tuple[Batch, list[Tensor], tuple[int | None, ...]]:  # fmt: skip
    """The rows as a batch, and its hidden states that the task's head reads: `states` and `layers` of Features."""
    batch = collate(tokenized, task, rows).to(device)
    with autocast:
        hidden = model.hidden(task, model.inputs(task, batch))
    wanted, count = layers_read(model, task), len(hidden.layers)
    numbers = set(range(count)) if wanted is None else {layer % count for layer in wanted}
    states = [hidden.last]
    layers: list[int | None] = [None] * count
    for number in sorted(numbers):
        layers[number] = 0
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
    """Bytes that the hidden states of a split will take."""
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
) -> Features:
    """Encodes every text of a split once. The encoder has to be in evaluation mode."""
    sizes = [int(side.starts[-1]) for side in tokenized.sides]
    offsets = np.cumsum([0, *sizes[:-1]])
    starts = np.stack([side.starts[:-1] + offset for side, offset in zip(tokenized.sides, offsets, strict=True)])
    kept: tuple[Tensor, ...] = ()
    layers: tuple[int | None, ...] = ()
    for rows in by_length(tokenized.lengths()):
        batch, states, layers = _states_of(model, task, tokenized, rows, device, autocast)
        kept = kept or tuple(state.new_empty(sum(sizes), state.shape[-1]) for state in states)
        mask = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
        first = torch.from_numpy(starts[:, rows].reshape(-1, 1)).to(device)
        places = (first + torch.arange(mask.shape[1], device=device))[mask]
        for held, state in zip(kept, states, strict=True):
            held[places] = state[mask]
    return Features(torch.from_numpy(starts).to(device), kept, layers)
