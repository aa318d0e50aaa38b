"""Choose the rows that `dev: 10%` holds out: by texts or groups, so that neither is on both sides."""

import hashlib
from collections.abc import Sequence

import numpy as np


def by_text(ranks: np.ndarray, share: float) -> np.ndarray:
    """Return which rows to hold out (n,) bool: those of the first texts in the order of their ranks.

    At least one text is held out, and one is not.

    Args:
        ranks: a hash of each row's texts (n,) uint64.
        share: share of the different texts.
    """
    # Sorted, so the texts are numbered in the order of their ranks.
    distinct, text_of_row = np.unique(ranks, return_inverse=True)
    count = min(max(1, round(share * len(distinct))), len(distinct) - 1)
    return text_of_row < count


def in_part(ranks: np.ndarray, groups: Sequence[str], part: tuple[float, float]) -> np.ndarray:
    """Return which rows are in a part (n,) bool. Parts that do not overlap have no text and no group in common.

    Different texts, or clusters of groups as in `by_group`, follow each other in the order of their hashes; in the part are those
    whose middle lies in it.

    Args:
        ranks: a hash of each row's texts (n,) uint64.
        groups: name of each row's group, "" for none; empty where rows have no groups.
        part: the lower and the upper share, between 0 and 1.
    """
    if groups:
        unit_of_row = _clusters(ranks, groups, b"")
        sizes = np.bincount(unit_of_row)
    else:
        _, unit_of_row = np.unique(ranks, return_inverse=True)
        sizes = np.ones(unit_of_row.max() + 1, dtype=np.int64)
    middles = (sizes.cumsum() - sizes / 2) / sizes.sum()
    within: np.ndarray = ((middles >= part[0]) & (middles < part[1]))[unit_of_row]
    return within


def by_group(ranks: np.ndarray, groups: Sequence[str], share: float, seed: bytes) -> np.ndarray:
    """Return which rows to hold out (n,) bool, in whole groups.

    Groups with a text in common are on the same side, too: together they are one cluster. In the order of a hash of their names,
    each cluster is held out that brings the number of rows nearer to the share. Neither side is empty, if there are two clusters
    or more.

    Args:
        ranks: a hash of each row's texts (n,) uint64, which stands for the group of a row without one.
        groups: name of each row's group, "" for none.
        share: share of the rows.
        seed: another seed gives another order.
    """
    cluster_of_row = _clusters(ranks, groups, seed)
    sizes = np.bincount(cluster_of_row)
    clusters = np.flatnonzero(sizes).tolist()
    selected, total, target = list[int](), 0, share * len(ranks)
    for cluster in clusters:
        if abs(total + sizes[cluster] - target) < abs(total - target):
            selected.append(cluster)
            total += sizes[cluster]
    # The share is at most half of every cluster: the smallest one is held out all the same.
    if not selected:
        selected = [min(clusters, key=sizes.__getitem__)]
    # Training keeps one cluster if there are two or more.
    return np.isin(cluster_of_row, selected[:-1] if len(selected) == len(clusters) > 1 else selected)


def _clusters(ranks: np.ndarray, groups: Sequence[str], seed: bytes) -> np.ndarray:
    """Return the cluster of each row (n,): rows that texts or groups join have one number, in the order of hashes."""
    # 8 bytes in little-endian order, like the ranks that stand for rows without a group.
    hashes = [
        int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8, key=seed).digest(), "little")
        if name
        else rank
        for name, rank in zip(groups, ranks.tolist(), strict=True)
    ]
    group_ranks, group_of_row = np.unique(np.array(hashes, dtype=np.uint64), return_inverse=True)
    _, text_of_row = np.unique(ranks, return_inverse=True)
    # A row's cluster is the first group in the order of hashes that it reaches over shared groups and texts.
    cluster_of_row = group_of_row.copy()
    while True:
        before = cluster_of_row.copy()
        # Each round spreads the smallest number over one more shared text and group.
        for labels in (text_of_row, group_of_row):
            first = np.full(labels.max() + 1, len(group_ranks))
            np.minimum.at(first, labels, cluster_of_row)
            cluster_of_row = first[labels]
        if (cluster_of_row == before).all():
            break
    return cluster_of_row
