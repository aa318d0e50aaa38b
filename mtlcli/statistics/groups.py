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
        return RowGroups.of([self.name(row) for row in rows.tolist()])

    def name(self, row: int) -> str:
        """Return the name of a row's group, "" for a group of its own."""
        return self.names[self.codes[row]]

    def same_as(self, other: "RowGroups") -> bool:
        """Return whether the same rows share groups, whatever the groups are called."""
        if len(self.codes) != len(other.codes) or len(self) != len(other):
            return False
        return np.unique(np.stack([self.codes, other.codes]), axis=1).shape[1] == len(self)

    def twice(self) -> "RowGroups":
        """Return the groups of these rows followed by the same rows once more, as further groups."""
        return RowGroups(self.names * 2, np.concatenate([self.codes, self.codes + len(self)]))


@dataclass(frozen=True)
class _OfGroups:
    """A metric whose resamples count groups of rows."""

    of_rows: Resampled
    codes: np.ndarray

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the metric of each resample (b,) of groups, counts (b, groups)."""
        return self.of_rows.values(counts.take(self.codes, axis=1))


def bind_groups(metric: Metric, predicted: Arrays, gold: Arrays, groups: RowGroups | None) -> Resampled:
    """Bind a metric so that resamples count groups (b, groups), or rows (b, n) where there are no groups.

    For a metric of sums over rows the sums of each group are computed once, and a resample costs as little as if each group were a
    row. For other metrics the counts of groups become counts of rows.
    """
    bound = metric.bind(predicted, gold)
    if groups is None:
        return bound
    if not isinstance(bound, Statistics):
        return _OfGroups(bound, groups.codes)
    columns = [
        np.bincount(groups.codes, weights=column, minlength=len(groups)) for column in bound.statistics.T.astype(float)
    ]
    return Statistics(np.stack(columns, axis=1), bound.score)
