"""Random numbers that are a function of a row, its step and a place, so that neither padding nor the other rows of a batch matter.

`with keyed(batch)` names the rows of a pass; dropout and noise within it draw by row. The numbers come from a hash of 32 bits
(murmur3's finalizer) of row and place, and not from a generator, so that any part of a batch draws the numbers of the whole batch.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch

PLACE, LAYER, CALL, ATTENTION, HEAD = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1
"""Odd factors that spread places, modules, calls, attention modules and their heads over 32 bits."""
MODULE_NUMBER = "_mtlcli_number"
"""Attribute of the modules of a model that draw by row, their number among all."""
LONGEST = 1 << 14
"""Positions of a text that attention weights may have; places of longer texts repeat."""


class _Rows:
    """The rows of the current pass: keys (s,) int32 of its sequences, and those of rows and items made when they are asked for."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.calls: dict[int, int] = {}

    @cached_property
    def sequences(self) -> Tensor:
        """Keys (s,) int32 of the sequences of the batch."""
        numbers = torch.from_numpy(self.batch.sequences).to(self.batch.tokens.device)
        # A seed has 63 bits and a key 32, so the halves enter in two rounds.
        low, high = self.batch.noise & 0xFFFFFFFF, self.batch.noise >> 32
        return _mixed(_mixed(_wrap(numbers * PLACE + low)) ^ _signed(high))

    def of(self, count: int) -> Tensor | None:
        """Return the keys (count,) of sequences, rows or items, whichever a pass has `count` of; None if it has so many of nothing."""
        if count == len(self.sequences):
            return self.sequences
        items = self.batch.items
        if items is not None and count == len(items.sequence):
            # The place of an item in its text, so that its number in the batch does not matter.
            return _mixed(self.sequences[items.sequence] ^ _wrap(items.first * LAYER))
        if count == self.batch.count:
            # Of the first text of each row.
            starts = torch.arange(count, device=self.sequences.device) if items is None else items.rows[:-1]
            return self.sequences[starts]
        return None

    def call(self, module: int) -> int:
        """Return how often a module has drawn in this pass, and count this time."""
        self.calls[module] = self.calls.get(module, -1) + 1
        return self.calls[module]


_passes: list[_Rows] = []


@contextmanager
def keyed(batch: Batch) -> Iterator[None]:
    """Draw by row within the block: a pass of the model over a batch. A pass that is repeated draws the same numbers."""
    _passes.append(_Rows(batch))
    try:
        yield
    finally:
        _passes.pop()


def normal_of_rows(batch: Batch, like: Tensor, purpose: int) -> Tensor:
    """Return standard normal numbers of the shape of `like` (s, length, dim), a function of each row's key, the place and `purpose`."""
    keys = _mixed(_Rows(batch).sequences ^ _signed(purpose))
    hashed = _hash(keys, like.shape, like.device)
    # 23 bits, the middle of each interval, so that neither 0 nor 1 occurs and float32 holds them exactly.
    uniform = (((hashed >> 9) & 0x7FFFFF).float() + 0.5) / (1 << 23)
    return (torch.erfinv(2 * uniform - 1) * math.sqrt(2)).to(like.dtype)


class RowDropout(nn.Dropout):
    """Zero numbers with probability p in training, as `torch.nn.Dropout` does, by row where the rows of the pass are known.

    The first axis counts sequences, rows or items of the batch. A tensor of another size is dropped from torch's stream.
    """

    def __init__(self, p: float, number: int) -> None:
        super().__init__(p)
        self.number = number

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the numbers that remain, times 1 / (1 - p)."""
        rows = _passes[-1] if _passes and self.training and self.p else None
        keys = rows.of(len(numbers)) if rows is not None and numbers.dim() > 1 else None
        if rows is None or keys is None:
            return nn.functional.dropout(numbers, self.p, self.training)
        call = rows.call(self.number)
        keys = _mixed(keys ^ _signed(self.number * LAYER + call * CALL))
        dropped = _hash(keys, numbers.shape, numbers.device) < _threshold(self.p)
        return numbers.masked_fill(dropped, 0) * (1 / (1 - self.p))


def dropped_by_row(module: nn.Module, p: float, shape: tuple[int, ...]) -> Tensor | None:
    """Return which attention weights of a shape (n, heads, length, length) a module zeroes with probability p.

    Returns:
        Booleans of the shape, or None without dropout and where the n rows of the pass are not known.
    """
    rows = _passes[-1] if _passes and p else None
    keys = rows.of(shape[0]) if rows is not None else None
    if rows is None or keys is None:
        return None
    number: int = getattr(module, MODULE_NUMBER, 0)
    # Negative, because modules of dropout are numbered from 1 as well and count their calls in the same dict.
    keys = _mixed(keys ^ _signed(number * ATTENTION + rows.call(-number) * CALL))
    return _hash(keys, torch.Size(shape), keys.device) < _threshold(p)


def use_row_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of a model, so that dropout is a function of the row. Parameters and their names stay the same."""
    numbers = itertools.count(1)
    seen: dict[int, RowDropout] = {}
    for number, module in enumerate(list(model.modules()), start=1):
        setattr(module, MODULE_NUMBER, number)
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                by_row = seen.setdefault(id(child), RowDropout(child.p, next(numbers)))
                by_row.train(child.training)
                setattr(module, name, by_row)


def _hash(keys: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    """Return int32 numbers of a shape whose first axis belongs to the keys (n,).

    The place of a number is its position in (length, width), which padding does not change; of attention weights (heads, length,
    length) it is counted as if every text had `LONGEST` positions.
    """
    if len(shape) == 4:
        heads, queries, others = (torch.arange(size, device=device) for size in shape[1:])
        # A key for each head, because the places of one head alone take 28 of the 32 bits.
        keys = _mixed(keys[:, None] ^ _wrap(heads * HEAD))
        places = queries[:, None] * LONGEST + others
    else:
        places = torch.arange(math.prod(shape[1:]), device=device).view(shape[1:])
    spread = _wrap(places * PLACE)
    return _mixed(keys.view(*keys.shape, *[1] * (len(shape) - keys.dim())) ^ spread)


def _mixed(values: Tensor) -> Tensor:
    """Return int32 numbers in which every bit depends on every bit: the finalizer of murmur3."""
    # The shift of a signed integer copies its sign, which the masks remove. Not in place, to keep the argument.
    values = values ^ ((values >> 16) & 0xFFFF)
    values = values * _signed(0x85EBCA6B)
    values ^= (values >> 13) & 0x7FFFF
    values *= _signed(0xC2B2AE35)
    values ^= (values >> 16) & 0xFFFF
    return values


def _wrap(values: Tensor) -> Tensor:
    """Return int64 numbers as int32, by their lower 32 bits."""
    # Flipping bit 31 and subtracting it maps the upper half of the unsigned range to negative numbers.
    return (((values & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).to(torch.int32)


def _signed(number: int) -> int:
    """Return the lower 32 bits of a number as a signed one."""
    return ((number & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _threshold(p: float) -> int:
    """Return the int32 number that a share p of all int32 numbers is smaller than."""
    return min(round(p * 2**32), 2**32 - 1) - 2**31
