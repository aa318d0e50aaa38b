"""Batches of similar length, in an order that is a pure function of (seed, task, pass)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtlcli.data.balanced import balanced_pass, batches_by_length, rows_with_class
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.devices import move
from mtlcli.facts import seed_for
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Tensors


@dataclass(frozen=True)
class Batch:
    """Some rows of one task, ready for the encoder.

    Attributes:
        rows: (n,), numbers of the rows within their split.
        sequences: (s,), numbers of the token sequences within their split, see `TokenizedSplit.sequences_of`.
        tokens: (s, length) int64, one or several sequences a row; the first sides of all rows before the second ones.
        mask: of the same shape, True at tokens; None without padding.
        types: of the same shape; None for an encoder without them.
        items: where the items of the rows stand in the sequences; None where rows have no items.
        gold: labels of the rows; None where they have none.
        units: loss units of all rows together, see `Target.units`. Computed with the batch, so that a visit of several
            micro-batches knows its divisor before the first backward pass, and a GPU is not waited for.
        labeled: (n,) bool, which rows have a known label; None where all have.
        weights: (n,) float32, factors of the rows' losses in training; None where all are 1. Evaluation ignores them.
        group: number of the group of tasks that read the same rows in the same order; None for a task of its own. Batches of one
            group with equal `rows` have equal tokens.
        noise: seed of what is drawn by row in a pass over the batch, equal for the batches of a group, see `model.row_noise`.
        is_idle: the pass takes part in what processes do together, and its loss counts 0.
    """

    task: int
    sides: int
    rows: np.ndarray
    sequences: np.ndarray
    tokens: Tensor
    mask: Tensor | None
    types: Tensor | None
    items: Items | None
    gold: Tensors | None
    units: float
    labeled: Tensor | None = None
    weights: Tensor | None = None
    group: int | None = None
    noise: int = 0
    is_idle: bool = False

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device, see `devices.move`."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            tokens=move(self.tokens, device),
            mask=None if self.mask is None else move(self.mask, device),
            types=None if self.types is None else move(self.types, device),
            items=None if self.items is None else self.items.to(device),
            gold=None if self.gold is None else self.gold.to(device),
            labeled=None if self.labeled is None else move(self.labeled, device),
            weights=None if self.weights is None else move(self.weights, device),
        )


def batches_per_pass(rows: int, batch_size: int) -> int:
    """Return the number of batches in which every row occurs exactly once; the last can be smaller."""
    return -(-rows // batch_size)


def pairs_per_pass(strata: np.ndarray) -> int:
    """Return the number of batches of two rows of every class in which no row occurs twice: the rarest class ends a pass."""
    return int(np.bincount(strata[strata >= 0]).min()) // 2


def pass_order(lengths: np.ndarray, batch_size: int, seed: int, task: str, number: int) -> list[np.ndarray]:
    """Return the row numbers of each batch of pass `number`.

    Every row occurs exactly once, rows of similar length together; rows and batches are shuffled. The result is a function of the
    arguments alone, so a position in the data is two integers.

    Args:
        lengths: (n,), in tokens.
    """
    random = np.random.Generator(np.random.PCG64(seed_for(seed, "order", task, number)))
    order = random.permutation(len(lengths))
    batches = batches_by_length(order, lengths, batch_size)
    return [batches[index] for index in random.permutation(len(batches))]


def pass_of_pairs(strata: np.ndarray, seed: int, task: str, number: int) -> list[np.ndarray]:
    """Return the row numbers of each batch of pass `number`: a_1 .. a_K, b_1 .. b_K, one a and one b of each of K classes.

    No row occurs twice in a pass; the rows of frequent classes that it lacks change from pass to pass. Rows are not grouped by
    length: a pair of equal length in a batch of other lengths could be recognized by it.

    Args:
        strata: (n,), class indices.
    """
    random = np.random.Generator(np.random.PCG64(seed_for(seed, "pairs", task, number)))
    count = pairs_per_pass(strata)
    rows = np.stack(
        [random.permutation(np.flatnonzero(strata == label))[: 2 * count] for label in range(int(strata.max()) + 1)]
    )  # (K, 2 * count)
    # (K, 2, count) -> (count, 2, K) -> (count, 2 * K)
    return list(rows.reshape(len(rows), 2, count).transpose(2, 1, 0).reshape(count, -1))


def by_length(lengths: np.ndarray, tokens: int = 4096, rows: int = 256) -> list[np.ndarray]:
    """Return row numbers of batches for evaluation, sorted by length, each with at most `tokens` padded tokens and `rows` rows."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        # The first row is the longest of its batch, and all are padded to it.
        size = max(1, min(rows, tokens // max(1, int(lengths[order[start]]))))
        batches.append(order[start : start + size])
        start += size
    return batches


def collate(tokenized: TokenizedSplit, task: int, rows: np.ndarray) -> Batch:
    """Return rows as one batch, padded to its longest sequence."""
    sequences = tokenized.sequences_of(rows)
    per_side = len(sequences) // len(tokenized.sides)
    spans = [
        (side, int(side.starts[number]), int(side.starts[number + 1]))
        for index, side in enumerate(tokenized.sides)
        # `sequences` numbers the sides one after the other, and the starts of each side begin at 0.
        for number in (sequences[index * per_side : (index + 1) * per_side] - index * len(tokenized)).tolist()
    ]
    length = max(end - start for _, start, end in spans)
    shape = (len(spans), length)
    tokens = np.full(shape, tokenized.pad, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64) if tokenized.sides[0].types is not None else None
    mask = np.zeros(shape, dtype=bool)
    for at, (side, start, end) in enumerate(spans):
        tokens[at, : end - start] = side.tokens[start:end]
        mask[at, : end - start] = True
        if types is not None and side.types is not None:
            types[at, : end - start] = side.types[start:end]
    batch = Batch(
        task=task,
        sides=len(tokenized.sides),
        rows=rows,
        sequences=sequences,
        tokens=torch.from_numpy(tokens),
        mask=None if mask.all() else torch.from_numpy(mask),
        types=None if types is None else torch.from_numpy(types),
        items=_items_of(tokenized, rows),
        gold=None,
        units=0.0,
    )
    return with_labels(batch, tokenized, task)


def with_labels(batch: Batch, tokenized: TokenizedSplit, task: int) -> Batch:
    """Return a batch with the labels of another task, whose split has the same token sequences; on the CPU."""
    gold, labeled, units = None, None, 0.0
    if tokenized.target is not None and tokenized.gold is not None:
        gold = tokenized.target.collate(tokenized.gold, batch.rows, batch.items)
        of_rows = tokenized.target.units(tokenized.gold.take(batch.rows))
        units = float(of_rows.sum())
        labeled = None if of_rows.all() else torch.from_numpy(of_rows > 0)
    # float32, because a float64 factor would turn the losses into float64.
    weights = None if tokenized.weights is None else torch.from_numpy(tokenized.weights[batch.rows].astype(np.float32))
    return replace(batch, task=task, gold=gold, units=units, labeled=labeled, weights=weights)


def _items_of(tokenized: TokenizedSplit, rows: np.ndarray) -> Items | None:
    """Return where the items of some rows stand in their sequences; None where rows have no items."""
    (side, *_) = tokenized.sides
    if side.items is None or side.rows is None:
        return None
    items = side.items.take(rows)
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(np.diff(side.rows)[rows], out=starts[1:])
    # Items number their sequences within the row, `Items` within the batch.
    row_of_item = np.repeat(np.arange(len(rows)), np.diff(np.asarray(items.starts)))
    return Items(
        starts=torch.from_numpy(np.asarray(items.starts)),
        sequence=torch.from_numpy(items["sequence"] + starts[row_of_item]),
        first=torch.from_numpy(items["first"].astype(np.int64)),
        last=torch.from_numpy(items["last"].astype(np.int64)),
        rows=torch.from_numpy(starts),
        spans=torch.from_numpy(items["span"].astype(np.int64)) if "span" in items else None,
    )


class TaskBatches:
    """The endless sequence of a task's batches. `cursor` counts the batches taken so far and is the whole state.

    With the composition "pairs-of-classes" a batch is two rows of every class, and `batch_size` has no effect. With `balanced`, a
    pass has equally many rows of every class. The order of the rows is a function of `order_name` and the seed; it is the name of the
    task where it is empty. Tasks of one `group` have the same order.
    """

    def __init__(
        self,
        tokenized: TokenizedSplit,
        *,
        task: int,
        name: str,
        batch_size: int,
        seed: int,
        composition: str | None = None,
        balanced: bool = False,
        group: int | None = None,
        order_name: str = "",
    ) -> None:
        self.tokenized, self.group, self.order_name = tokenized, group, order_name or name
        self.task, self.name, self.batch_size, self.seed = task, name, batch_size, seed
        self._pairs: np.ndarray | None = None
        self._balanced: np.ndarray | None = None
        self.per_pass = batches_per_pass(len(tokenized), batch_size)
        if composition == "pairs-of-classes":
            self._pairs = _strata_of(tokenized)
            self.batch_size = 2 * (int(self._pairs.max()) + 1)
            self.per_pass = pairs_per_pass(self._pairs)
        elif composition is not None:
            raise ValueError(f"no composition {composition!r}")
        elif balanced:
            self._balanced = _strata_of(tokenized)
            self.per_pass = batches_per_pass(rows_with_class(self._balanced), batch_size)
        self.cursor = 0
        self._lengths = tokenized.lengths()
        # The order of the current pass is kept, but not saved: it is a function of the number of the pass.
        self._order: tuple[int, list[np.ndarray]] = (-1, [])

    def next(self) -> Batch:
        """Return the batch at the cursor and advance the cursor by 1."""
        return self.batch(self.next_rows())

    def next_rows(self) -> np.ndarray:
        """Return the numbers of the rows of the batch at the cursor and advance the cursor by 1."""
        number, index = divmod(self.cursor, self.per_pass)
        if self._order[0] != number:
            self._order = (number, self._pass(number))
        self.cursor += 1
        return self._order[1][index]

    def units(self, rows: np.ndarray) -> np.ndarray:
        """Return the loss units of each row (n,), see `Target.units`; 0 where its label is not known."""
        if self.tokenized.target is None or self.tokenized.gold is None:
            return np.zeros(len(rows))
        return self.tokenized.target.units(self.tokenized.gold.take(rows))

    def _pass(self, number: int) -> list[np.ndarray]:
        if self._pairs is not None:
            return pass_of_pairs(self._pairs, self.seed, self.order_name, number)
        if self._balanced is not None:
            return balanced_pass(self._lengths, self._balanced, self.batch_size, self.seed, self.order_name, number)
        return pass_order(self._lengths, self.batch_size, self.seed, self.order_name, number)

    def longest(self) -> Batch:
        """Return the batch of the longest rows, which needs the most memory."""
        rows = np.argsort(-self._lengths, kind="stable")
        if self._pairs is not None:
            of_class = self._pairs[rows]
            rows = np.stack([rows[of_class == label][:2] for label in range(int(of_class.max()) + 1)]).T.ravel()
        return self.batch(rows[: self.batch_size])

    def batch(self, rows: np.ndarray, noise: int = 0) -> Batch:
        """Return rows as a batch."""
        return replace(collate(self.tokenized, self.task, rows), group=self.group, noise=noise)


def _strata_of(tokenized: TokenizedSplit) -> np.ndarray:
    """Return the class of each row (n,). Raise ValueError for rows without one."""
    strata = None
    if tokenized.target is not None and tokenized.gold is not None:
        strata = tokenized.target.strata(tokenized.gold)
    if strata is None:
        raise ValueError("pairs of classes and balanced sampling need rows with a class")
    return strata
