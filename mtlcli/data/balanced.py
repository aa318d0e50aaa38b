"""Passes in which every class has equally many rows, and the batches of similar length that every pass consists of."""

import numpy as np

from mtlcli.facts import seed_for

POOL = 100
"""Batches whose rows are sorted by length together: large enough for little padding, small enough to stay random."""

PERMUTED = 4096
"""Rows of a class that one random generator permutes, at least: a class of a few rows has thousands of permutations in a pass."""


def batches_by_length(rows: np.ndarray, lengths: np.ndarray, batch_size: int, pool: int = POOL) -> list[np.ndarray]:
    """Return rows in batches, `pool` of which at a time are made of consecutive rows sorted by length."""
    batches: list[np.ndarray] = []
    for start in range(0, len(rows), pool * batch_size):
        part = rows[start : start + pool * batch_size]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
    return batches


def rows_with_class(strata: np.ndarray) -> int:
    """Return the number of rows that balanced sampling draws in a pass: as many as have a class."""
    return int((strata >= 0).sum())


def balanced_pass(
    lengths: np.ndarray, strata: np.ndarray, batch_size: int, seed: int, task: str, number: int
) -> list[np.ndarray]:
    """Return the row numbers of each batch of pass `number`, in which every class has as many rows as any other.

    A pass draws as many rows as have a class. The draws of all passes form one sequence that takes the K classes that occur in turn,
    so that a class has the mean size in each pass, up to one row. Its own rows come in random permutations, one after the other: the
    rows of a rare class are repeated, and those of a frequent class take turns, equally often in the long run. The result is a
    function of the arguments alone, so a position in the data is two integers.

    Rows of similar length come together as in `pass_order`, but among fewer rows where a class is rare, so that copies of one row,
    which are equally long, rarely meet in a batch.

    Args:
        lengths: (n,), in tokens.
        strata: (n,), class indices; rows below 0 are never drawn.
    """
    counts = np.bincount(strata[strata >= 0])
    classes, size = np.flatnonzero(counts), rows_with_class(strata)
    first = number * size  # among the draws of all passes
    rows = np.empty(size, dtype=np.int64)
    for place, label in enumerate(classes.tolist()):
        # Draw d of all passes belongs to class d mod K, so ceil((first - place) / K) draws of it precede this pass.
        of_class = slice((place - first) % len(classes), None, len(classes))
        start, count = -((place - first) // len(classes)), len(rows[of_class])
        rows[of_class] = _permuted(np.flatnonzero(strata == label), start, count, seed, task, label)
    # In K times as many rows as the rarest class has, each of its rows occurs about once.
    pool = min(POOL, len(classes) * int(counts[classes].min()) // batch_size)
    batches = batches_by_length(rows, lengths, batch_size, max(1, pool))
    random = np.random.Generator(np.random.PCG64(seed_for(seed, "balanced order", task, number)))
    return [batches[index] for index in random.permutation(len(batches))]


def _permuted(members: np.ndarray, start: int, count: int, seed: int, task: str, label: int) -> np.ndarray:
    """Return `count` rows, from position `start` on, of an endless sequence of random permutations of a class's rows."""
    repeats = -(-PERMUTED // len(members))
    length = repeats * len(members)
    parts = [members[:0]]
    for block in range(start // length, -(-(start + count) // length)):
        random = np.random.Generator(np.random.PCG64(seed_for(seed, "balanced", task, label, block)))
        # (repeats, members): each line is a permutation of its own.
        parts.append(random.permuted(np.tile(members, (repeats, 1)), axis=1).ravel())
    # The first block begins with draws of earlier passes.
    return np.concatenate(parts)[start % length :][:count]
