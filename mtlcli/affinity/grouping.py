"""Which tasks to train together, given what each does for each other and a number of models.

The value of a task in a group is the mean of what the other members do for it (the average of pairs of Fifty et al., NeurIPS
2021, arXiv:2109.04617), and 0 alone: an affinity is a gain over single-task training. A task may be in several groups and counts
in its best one: it may sit in a group only to help the others. Who counts where is a partition of the tasks, so the best choice is
found exactly by dynamic programming over subsets in O(r 3^k).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mtlcli.errors import MtlError

MOST = 12
"""Tasks up to which the search is exact: about 4 seconds, and three times as much for each further task."""
DRAWS, WORK = 200, 200 * 3**8
"""Matrices drawn from the intervals to see how stable a grouping is, and the subsets of subsets visited for all of them at most."""
FEWEST_DRAWS = 20
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Grouping:
    """Hold a choice of groups.

    Attributes:
        groups: members of each group, as task indices in ascending order.
        served: for each group, the members that count in it; every task is in one of these.
        value: sum over the tasks of their value in the group in which they count.
    """

    groups: tuple[tuple[int, ...], ...]
    served: tuple[tuple[int, ...], ...]
    value: float


@dataclass(frozen=True)
class Stability:
    """Hold how a grouping varies with the affinities: its share of the draws, and the share (k, k) in which pairs stand together."""

    share: float
    together: np.ndarray
    draws: int


def group_tasks(affinity: np.ndarray, models: int) -> Grouping:
    """Return the best grouping of k tasks in at most `models` groups.

    Among groupings of equal value, that with the fewest groups wins, then that with the fewest members, then the first by the order
    of the tasks.

    Args:
        affinity: (k, k), what task i (row) does for task j (column); the diagonal is ignored. A value that is not known is 0.
        models: largest number of groups.

    Raises:
        MtlError: there are more than `MOST` tasks.
    """
    k = len(affinity)
    if k > MOST:
        raise MtlError(f"{k} tasks: the search for groups is exact up to {MOST} tasks; leave tasks out with --task")
    values, supersets = _best_hosts(task_values(affinity), k)
    full = (1 << k) - 1
    # best[r][u]: (value, groups, members, choice) of serving the tasks of subset u with r groups.
    # Before the first group, only the empty set is served.
    best = np.full(1 << k, -np.inf)
    best[0] = 0.0
    size = np.zeros(1 << k, dtype=np.int64)
    # layers[r - 1][u] is the part of subset u that the r-th group serves in the best choice.
    layers: list[np.ndarray] = []
    solutions: list[tuple[float, int, int, int]] = []
    members = _bit_counts(k)
    # Every group serves at least one task, so more groups than tasks are impossible.
    for number in range(1, min(models, k) + 1):
        best, size, choice = _add_group(best, size, values, members[supersets], k)
        layers.append(choice)
        if np.isfinite(best[full]):
            # Negative, so that `max` prefers fewer groups, then fewer members.
            solutions.append((float(best[full]), -number, -int(size[full]), number))
    top = max(value for value, *_ in solutions)
    # Equal values differ by rounding where the sums were taken in another order.
    *_, number = max(entry[1:] for entry in solutions if entry[0] >= top - TOLERANCE)
    parts, rest = [], full
    # Back from the full set: each layer gives one part, and the layer before it serves the rest.
    for choice in reversed(layers[:number]):
        parts.append(int(choice[rest]))
        rest &= ~parts[-1]
    served = sorted((_tasks(part), _tasks(int(supersets[part]))) for part in parts)
    total = float(sum(values[part] for part in parts))
    return Grouping(tuple(group for _, group in served), tuple(part for part, _ in served), total)


def _add_group(
    best: np.ndarray, size: np.ndarray, values: np.ndarray, sizes: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value, members and last part of every subset after one more group, whose part holds the subset's lowest task."""
    count = 1 << k
    new, new_size, choice = np.full(count, -np.inf), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for subset in range(1, count):
        # Only parts with the lowest task: otherwise every partition would be found once for each order of its parts.
        low = subset & -subset
        parts = _subsets(subset ^ low) | low
        scores = best[subset ^ parts] + values[parts]
        top = scores.max()
        # A subset of fewer tasks than groups cannot be served.
        if not np.isfinite(top):
            continue
        # Of equally good parts, the one with the fewest members of all groups together, then the lowest tasks.
        equal = np.flatnonzero(scores >= top - TOLERANCE)
        total = size[subset ^ parts[equal]] + sizes[parts[equal]]
        # `lexsort` sorts by its last key first.
        at = equal[int(np.lexsort((parts[equal], total))[0])]
        new[subset], choice[subset] = scores[at], parts[at]
        new_size[subset] = size[subset ^ parts[at]] + sizes[parts[at]]
    return new, new_size, choice


def task_values(affinity: np.ndarray) -> np.ndarray:
    """Return the value of every task in every subset (2^k, k): the mean of what the other members do for it; 0 alone."""
    k = len(affinity)
    gains = np.where(np.isfinite(affinity), affinity, 0.0)
    gains[np.diag_indices(k)] = 0.0
    # Row u has 1 for each task whose bit is set in u.
    members = (np.arange(1 << k)[:, None] >> np.arange(k)) & 1
    # A task alone has a sum of 0, which the divisor 1 leaves at 0.
    others = np.maximum(members.sum(1) - 1, 1)
    # The zero diagonal of `gains` leaves each task out of its own sum; tasks outside of a group get 0.
    values: np.ndarray = members @ gains / others[:, None] * members
    return values


def _best_hosts(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for every subset the best sum of its tasks' values in a group that holds them (2^k,), and that group."""
    count = 1 << k
    best, host = np.full(count, -np.inf), np.zeros(count, dtype=np.int64)
    full = count - 1
    sizes = _bit_counts(k)
    for part in range(1, count):
        tasks = [task for task in range(k) if part >> task & 1]
        # All supersets of the part. Over all parts, these are 3^k pairs.
        groups = _subsets(full ^ part) | part
        sums = values[groups][:, tasks].sum(1)
        top = sums.max()
        equal = np.flatnonzero(sums >= top - TOLERANCE)
        # Of equally good hosts, the smallest, then the one with the lowest number.
        at = equal[int(np.lexsort((groups[equal], sizes[groups[equal]]))[0])]
        best[part], host[part] = sums[at], groups[at]
    return best, host


def _bit_counts(k: int) -> np.ndarray:
    counts: np.ndarray = ((np.arange(1 << k)[:, None] >> np.arange(k)) & 1).sum(1)
    return counts


def _subsets(mask: int) -> np.ndarray:
    """Return all subsets of a set of bits, as numbers."""
    subsets = np.zeros(1, dtype=np.int64)
    while mask:
        bit = mask & -mask
        subsets = np.concatenate([subsets, subsets | bit])
        mask ^= bit
    return subsets


def _tasks(mask: int) -> tuple[int, ...]:
    return tuple(task for task in range(mask.bit_length()) if mask >> task & 1)


def value_of(affinity: np.ndarray, groups: Sequence[Sequence[int]]) -> float:
    """Return the sum over the tasks of their value in their best group, of groups that hold every task."""
    gains = np.where(np.isfinite(affinity), affinity, 0.0)
    total = 0.0
    for task in range(len(gains)):
        values = [
            float(np.mean([gains[other, task] for other in group if other != task])) if len(group) > 1 else 0.0
            for group in groups
            if task in group
        ]
        total += max(values)
    return total


def stability(draws: Sequence[np.ndarray], models: int, proposed: Grouping) -> Stability:
    """Return how often drawn affinities (k, k) give the proposed groups, and how often each pair of tasks stands together."""
    k = len(draws[0])
    together, same = np.zeros((k, k)), 0
    for affinity in draws:
        grouping = group_tasks(affinity, models)
        # As sets, because the groups are sorted by the tasks that count in them.
        same += set(grouping.groups) == set(proposed.groups)
        pairs = {pair for group in grouping.groups for pair in combinations(group, 2)}
        for i, j in pairs:
            together[i, j] += 1
            together[j, i] += 1
    return Stability(same / len(draws), together / len(draws), len(draws))


def draw_affinities(
    value: np.ndarray, low: np.ndarray, high: np.ndarray, seed: int, draws: int | None = None
) -> list[np.ndarray]:
    """Return affinities (k, k) drawn from normal distributions with these 95 % intervals; a value without one stays as it is.

    There are `DRAWS` of them up to eight tasks, and fewer above, where each search takes long.
    """
    draws = draws or max(FEWEST_DRAWS, min(DRAWS, WORK // 3 ** len(value)))
    generator = np.random.default_rng(seed)
    # A 95 % interval of a normal distribution is 2 * 1.96 standard deviations wide.
    spread = np.where(np.isfinite(high - low), (high - low) / 3.92, 0.0)
    return [value + spread * generator.standard_normal(value.shape) for _ in range(draws)]
