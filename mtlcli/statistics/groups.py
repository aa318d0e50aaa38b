"""Groups of rows, such as the sentences of a document, which are resampled as a whole because they are not independent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtlcli.metrics.base import Metric, Resampled, Statistics
from mtlcli.tasks.targets import Arrays


@dataclass(frozen=True)
class RowGroups:
    """Hold the group of each row.

    Attributes:
        names: names of the groups in ascending order, then "" for each row that is a group of its own.
        codes: (n,) int64, index of each row's group in `names`.
    """

    names: tuple[str, ...]
    codes: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str]) -> "RowGroups":
        """Group rows by the names of their groups; each row without a name ("") is a group of its own."""
        named = sorted({name for name in names if name})
        index = {name: code for code, name in enumerate(named)}
        alone = iter(range(len(named), len(named) + len(names)))
        codes = [index[name] if name else next(alone) for name in names]
        return cls((*named, *("" for name in names if not name)), np.array(codes, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: np.ndarray) -> "RowGroups":
        """Return the groups of some rows."""
        # Numbered again, so that no group is empty.
        return RowGroups.of([self.name(row) for row in rows.tolist()])

    def name(self, row: int) -> str:
        """Return the name of a row's group, "" for a group of its own."""
        return self.names[self.codes[row]]

    def same_as(self, other: "RowGroups") -> bool:
        """Return whether the same rows share groups, whatever the groups are called."""
        if len(self.codes) != len(other.codes) or len(self) != len(other):
            return False
        # Equal groupings have as many distinct pairs of codes as groups.
        return np.unique(np.stack([self.codes, other.codes]), axis=1).shape[1] == len(self)

    def twice(self) -> "RowGroups":
        """Return the groups of these rows followed by the same rows once more, as further groups."""
        return RowGroups(self.names * 2, np.concatenate([self.codes, self.codes + len(self)]))


@dataclass(frozen=True)
class _Scaled:
    """A metric whose resamples count units: rows or groups of rows, the latter by `codes`; `weights` (n,) are those of rows."""

    of_rows: Resampled
    codes: np.ndarray | None
    weights: np.ndarray | None

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the metric of each resample (b,) of units, counts (b, units)."""
        return self.of_rows.values(row_counts(counts, self.codes, self.weights))


def row_counts(counts: np.ndarray, codes: np.ndarray | None, weights: np.ndarray | None) -> np.ndarray:
    """Return how much each row counts in each resample (b, n): as often as its group was drawn, times its weight."""
    of_rows = counts if codes is None else counts.take(codes, axis=1)
    return of_rows if weights is None else of_rows * weights


def bind_groups(
    metric: Metric, predicted: Arrays, gold: Arrays, groups: RowGroups | None, weights: np.ndarray | None = None
) -> Resampled:
    """Bind a metric so that resamples count groups (b, groups), or rows (b, n) where there are no groups.

    For a metric of sums over rows the sums of each group are computed once, and a resample costs as little as if each group were a
    row. For other metrics the counts of groups become counts of rows.

    Args:
        weights: (n,), above 0: a row that is drawn once counts this much.
    """
    bound = metric.bind(predicted, gold)
    if groups is None and weights is None:
        return bound
    if not isinstance(bound, Statistics):
        return _Scaled(bound, None if groups is None else groups.codes, weights)
    statistics = bound.statistics.astype(np.float64)
    if weights is not None:
        statistics = statistics * weights[:, None]
    if groups is not None:
        # The metric is a function of sums, so rows of a group, which are drawn together, can be summed first.
        columns = [np.bincount(groups.codes, weights=column, minlength=len(groups)) for column in statistics.T]
        statistics = np.stack(columns, axis=1)
    return Statistics(statistics, bound.score)


def effective_units(weights: np.ndarray) -> float:
    """Return how many units of equal weight units of these weights (u,) are worth: (sum w)^2 / sum w^2 (Kish 1965, section 11.7)."""
    return float(weights.sum() ** 2 / (weights**2).sum())
