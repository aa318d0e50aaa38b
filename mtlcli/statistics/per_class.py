"""Precision, recall and F1 of each class, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtlcli.metrics.class_counts import ClassCounts
from mtlcli.metrics.ratio import ratio
from mtlcli.statistics.bootstrap import ENTRIES, FEWEST, Estimate, drawn_counts, interval_of_share, weighted_rows
from mtlcli.statistics.groups import RowGroups, effective_units, row_counts
from mtlcli.tasks.class_matches import ClassMatches
from mtlcli.tasks.targets import Arrays, Target


@dataclass(frozen=True)
class ClassScores:
    """Hold the scores of one class; `n` of an estimate is the number of items in its denominator.

    Attributes:
        support: number of items that are labeled with the class: rows, words or spans.
        predicted: number of items that are predicted to be of it.
        precision: share of the predicted ones that are right; 0 with the interval "none" where there are none.
        recall: share of the labeled ones that are predicted; likewise.
        f1: 2 TP / (2 TP + FP + FN).
    """

    label: str
    support: int
    predicted: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


def per_class(
    target: Target, predicted: Arrays, gold: Arrays, *, groups: RowGroups | None = None, weights: np.ndarray | None = None,
    resamples: int = 1000, level: float = 0.95, seed: int = 0,
) -> tuple[ClassScores, ...] | None:  # fmt: skip
    """Return the scores of every class that is a label or a prediction, those with the most labels first; None without classes.

    Resamples draw rows, or groups of rows, as for every metric (`bootstrap.estimate`); those in which a score is undefined do not
    count. If fewer than five items of a denominator are right, or fewer than five are wrong, many resamples have none of them, and the
    interval is the exact one of Clopper and Pearson for as many items as they are worth if items of one row or group are not
    independent: (sum w)^2 / sum w^2 over rows or groups, with w their items (Kish 1965, section 11.7). F1 is 2 J / (1 + J) with the share
    J = TP / (TP + FP + FN), and so are the ends of its interval.

    Args:
        weights: (n,), weights of the rows: scores count the items of a row as often as it weighs. `support` is a plain number of items.

    Raises:
        ValueError: there are no rows, or all have weight 0.
    """
    predicted, gold, groups, weights = weighted_rows(predicted, gold, groups, weights)
    matches = target.class_matches(predicted, gold)
    if matches is None:
        return None
    n = len(gold)
    matches = _occurring(matches)
    units, codes = (n, None) if groups is None else (len(groups), groups.codes)
    counts = ClassCounts.of(matches)
    # Numbers of items, for `n` and the kind of interval; the scores themselves are weighted.
    items = _fractions(*(sums[0] for sums in counts.sums(np.ones((1, n)))))
    sums = items if weights is None else _fractions(*(sums[0] for sums in counts.sums(weights[None])))
    drawn = {name: np.empty((resamples, len(matches.names))) for name in items}
    # A row can have several items, for each of which its counts are gathered.
    width, start = max(n, len(matches.gold), len(matches.predicted)), 0
    for block in drawn_counts(resamples, units, block=max(1, ENTRIES // width), seed=seed):
        rows = slice(start, start + len(block))
        for name, (part, whole) in _fractions(*counts.sums(row_counts(block, codes, weights))).items():
            drawn[name][rows] = np.where(whole > 0, ratio(part, whole), np.nan)
        start += len(block)
    worth = _effective_items(matches, np.arange(n) if codes is None else codes, weights)
    scores = []
    for index, label in enumerate(matches.names):
        estimates = {
            # Slices of one class, because `ratio` takes arrays.
            name: _estimate(
                float(ratio(*(numbers[index : index + 1] for numbers in sums[name]))[0]),
                int(items[name][0][index]),
                int(items[name][1][index]),
                drawn[name][:, index],
                worth[name][index],
                level,
                None if groups is None else units,
            )
            for name in items
        }
        estimates["f1"] = _as_f1(estimates["f1"])
        scores.append(ClassScores(label, estimates["recall"].n, estimates["precision"].n, **estimates))
    return tuple(sorted(scores, key=lambda of_class: (-of_class.support, -of_class.predicted)))


def _fractions(
    right: np.ndarray, labeled: np.ndarray, predicted: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return numerator and denominator of each score; of F1, those of TP / (TP + FP + FN)."""
    return {"precision": (right, predicted), "recall": (right, labeled), "f1": (right, labeled + predicted - right)}


def _occurring(matches: ClassMatches) -> ClassMatches:
    """Return the matches without classes that are neither labels nor predictions."""
    present = np.unique(np.concatenate([matches.gold[:, 1], matches.predicted[:, 1]]))
    place = np.zeros(len(matches.names), dtype=np.int64)
    place[present] = np.arange(len(present))
    parts = [
        np.stack([pairs[:, 0], place[pairs[:, 1]]], axis=1)
        for pairs in (matches.gold, matches.predicted, matches.right)
    ]
    return ClassMatches(tuple(matches.names[index] for index in present.tolist()), *parts)


def _effective_items(matches: ClassMatches, codes: np.ndarray, weights: np.ndarray | None) -> dict[str, list[float]]:
    """Return what the items in the denominator of each score are worth, by class.

    Args:
        codes: (n,), the unit that is resampled of each row.
    """
    denominators: dict[str, Sequence[tuple[np.ndarray, int]]] = {
        "precision": [(matches.predicted, 1)],
        "recall": [(matches.gold, 1)],
        # TP + FP + FN: labeled plus predicted items, minus those counted twice.
        "f1": [(matches.gold, 1), (matches.predicted, 1), (matches.right, -1)],
    }
    worth = {}
    for name, parts in denominators.items():
        pairs = np.concatenate([part for part, _ in parts])
        signs = np.concatenate([np.full(len(part), float(sign)) for part, sign in parts])
        if weights is not None:
            signs = signs * weights[pairs[:, 0]]
        # One number for each unit and class that occur together.
        cells, places = np.unique(codes[pairs[:, 0]] + pairs[:, 1] * (codes.max() + 1), return_inverse=True)
        sums = np.bincount(places.reshape(-1), weights=signs, minlength=len(cells))
        classes = cells // (codes.max() + 1)
        ends = np.searchsorted(classes, np.arange(len(matches.names) + 1))
        worth[name] = [effective_units(sums[first:last]) if last > first else 0.0 for first, last in pairwise(ends)]
    return worth


def _estimate(
    value: float, right: int, items: int, drawn: np.ndarray, worth: float, level: float, groups: int | None
) -> Estimate:
    """Return a share with its interval.

    Args:
        right, items: how many of how many items are right, whatever their weights.
        drawn: (resamples,), the share in each resample, NaN where it is undefined.
        worth: how many independent items the items are worth.
    """
    if items == 0:
        return Estimate(0.0, 0.0, 0.0, 0, "there are no items", "none", groups)
    if len(drawn) == 0:
        return Estimate(value, value, value, items, None, "none", groups)
    if min(right, items - right) < FEWEST:
        low, high = interval_of_share(value, worth, level)
        return Estimate(value, low, high, items, None, "exact", groups)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), items, None, "bootstrap", groups)


def _as_f1(share: Estimate) -> Estimate:
    """Return F1 for the share TP / (TP + FP + FN); it grows with the share, so the interval's ends are those of the share."""
    value, low, high = (2 * number / (1 + number) for number in (share.value, share.low, share.high))
    return Estimate(value, low, high, share.n, share.degenerate, share.interval, share.groups)
