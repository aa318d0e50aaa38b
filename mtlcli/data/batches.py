"""Batches of similar length, in an order that is a pure function of (seed, task, pass)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtlcli.data.tokens import TokenizedSplit
from mtlcli.facts import seed_for

POOL = 100
"""Batches whose rows are sorted by length together: large enough for little padding, small enough to stay random."""


@dataclass(frozen=True)
class Batch:
    """Some rows of one task, ready for the encoder.

    tokens (sides * n, length) int64, the first sides of all rows before the second ones; mask and types of the same
    shape, mask None where nothing is padded, types None where the encoder has none; targets (n,) int64 or float64;
    rows (n,) numbers the rows within their split.
    """

    task: int
    sides: int
    rows: np.ndarray
    tokens: Tensor
    mask: Tensor | None
    types: Tensor | None
    targets: Tensor | None

    @property
    def count(self) -> int:
        """Rows over which the mean of the loss is taken."""
        return len(self.rows)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; copied from pinned memory without waiting where that is a GPU."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            if device.type == "cuda":
                return tensor.pin_memory().to(device, non_blocking=True)
            return (tensor.float() if tensor.dtype == torch.float64 else tensor).to(device)

        moved = move(self.tokens)
        if moved is None:
            raise RuntimeError("a batch without tokens")
        return replace(self, tokens=moved, mask=move(self.mask), types=move(self.types), targets=move(self.targets))


def batches_per_pass(rows: int, batch_size: int) -> int:
    """Batches in which every row occurs exactly once; the last may be smaller."""
    return -(-rows // batch_size)


def pairs_per_pass(targets: np.ndarray) -> int:
    """Batches of two rows of every class in which no row occurs twice: a pass ends with the rows of the rarest class."""
    return int(np.bincount(targets).min()) // 2


def pass_order(lengths: np.ndarray, batch_size: int, seed: int, task: str, number: int) -> list[np.ndarray]:
    """Row numbers of each batch of pass `number`: every row exactly once, rows of similar length together, both shuffled.

    lengths (n,) in tokens. Depends on nothing but the arguments, so a position in the data is two integers.
    """
    random = np.random.Generator(np.random.PCG64(seed_for(seed, "order", task, number)))
    order = random.permutation(len(lengths))
    pool = POOL * batch_size
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def pass_of_pairs(targets: np.ndarray, seed: int, task: str, number: int) -> list[np.ndarray]:
    """Row numbers of each batch of pass `number`: a_1 .. a_K, b_1 .. b_K, one a and one b of each of K classes.

    targets (n,) class indices. No row occurs twice in a pass; which rows of the frequent classes are left out changes from pass
    to pass. Rows are not put together by length: a pair of equal length in a batch of other lengths would give itself away.
    """
    random = np.random.Generator(np.random.PCG64(seed_for(seed, "pairs", task, number)))
    count = pairs_per_pass(targets)
    chosen = np.stack(
        [random.permutation(np.flatnonzero(targets == label))[: 2 * count] for label in range(int(targets.max()) + 1)]
    )  # (K, 2 * count)
    return list(chosen.reshape(len(chosen), 2, count).transpose(2, 1, 0).reshape(count, -1))


def by_length(lengths: np.ndarray, tokens: int = 4096, rows: int = 256) -> list[np.ndarray]:
    """Row numbers of batches for evaluation: sorted by length, at most so many padded tokens and rows in each."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        size = max(1, min(rows, tokens // max(1, int(lengths[order[start]]))))
        batches.append(order[start : start + size])
        start += size
    return batches


def collate(tokenized: TokenizedSplit, task: int, rows: np.ndarray) -> Batch:
    """The rows as one batch, padded to its own longest text."""
    spans = [
        (side, int(side.starts[row]), int(side.starts[row + 1])) for side in tokenized.sides for row in rows.tolist()
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
    return Batch(
        task=task,
        sides=len(tokenized.sides),
        rows=rows,
        tokens=torch.from_numpy(tokens),
        mask=None if mask.all() else torch.from_numpy(mask),
        types=None if types is None else torch.from_numpy(types),
        targets=None if tokenized.targets is None else torch.from_numpy(tokenized.targets[rows]),
    )


class TaskBatches:
    """The endless sequence of a task's batches; `cursor` counts those already taken and is its whole state.

    With the composition "pairs-of-classes" a batch is two rows of every class, whatever batch_size says.
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
    ) -> None:
        self.tokenized = tokenized
        self.task, self.name, self.batch_size, self.seed = task, name, batch_size, seed
        self._classes: np.ndarray | None = None
        if composition == "pairs-of-classes":
            if tokenized.targets is None:
                raise ValueError("pairs of classes need labelled rows")
            self._classes = tokenized.targets
            self.batch_size = 2 * (int(tokenized.targets.max()) + 1)
            self.per_pass = pairs_per_pass(tokenized.targets)
        elif composition is None:
            self.per_pass = batches_per_pass(len(tokenized), batch_size)
        else:
            raise ValueError(f"no composition {composition!r}")
        self.cursor = 0
        self._lengths = tokenized.lengths()
        self._order: tuple[int, list[np.ndarray]] = (-1, [])

    def next(self) -> Batch:
        """The batch at the cursor, which moves on by one."""
        number, index = divmod(self.cursor, self.per_pass)
        if self._order[0] != number:
            self._order = (number, self._pass(number))
        self.cursor += 1
        return collate(self.tokenized, self.task, self._order[1][index])

    def _pass(self, number: int) -> list[np.ndarray]:
        if self._classes is not None:
            return pass_of_pairs(self._classes, self.seed, self.name, number)
        return pass_order(self._lengths, self.batch_size, self.seed, self.name, number)

    def longest(self) -> Batch:
        """The batch of the longest rows, which needs the most memory."""
        rows = np.argsort(-self._lengths, kind="stable")
        if self._classes is not None:
            of_class = self._classes[rows]
            rows = np.stack([rows[of_class == label][:2] for label in range(int(of_class.max()) + 1)]).T.ravel()
        return collate(self.tokenized, self.task, rows[: self.batch_size])
