"""Filter the rows of a source by the texts in its columns: `where` of a task or of an evaluation set."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mtlcli.errors import quotable

VALUES_SHOWN = 10
"""Values of a column that a message lists, the most frequent ones first."""


@dataclass
class FilterCounts:
    """Count the rows that a filter drops, and the values of its columns in them."""

    rows: int = 0
    values: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, cells: Mapping[str, str], columns: Iterable[str]) -> None:
        """Count a row that is dropped."""
        self.rows += 1
        for column in columns:
            self.values.setdefault(column, Counter())[cells.get(column, "").strip()] += 1

    def describe(self) -> str:
        """Return the values of the filter's columns in the dropped rows: `language is "fr", "sw"`."""
        return "; ".join(f"{quotable(column)} is {_most_frequent(counts)}" for column, counts in self.values.items())


def _most_frequent(counts: Counter[str]) -> str:
    values = ", ".join(_quoted(value) for value, _ in counts.most_common(VALUES_SHOWN))
    more = len(counts) - VALUES_SHOWN
    return f"{values} and {more} more" if more > 0 else values


@dataclass(frozen=True)
class RowFilter:
    """Keep rows that have one of certain texts in each of some columns.

    Attributes:
        key: the task's key of the filter, for messages.
        values: the texts by column; outer spaces of a cell do not count.
    """

    key: str
    values: Mapping[str, frozenset[str]]

    def keeps(self, cells: Mapping[str, str]) -> bool:
        """Return whether a row with these cells is kept."""
        return all(cells.get(column, "").strip() in texts for column, texts in self.values.items())

    def describe(self) -> str:
        """Return the condition in words: `language is "de" or "fr"`."""
        return " and ".join(
            f"{quotable(column)} is {' or '.join(map(_quoted, sorted(texts)))}" for column, texts in self.values.items()
        )


def _quoted(text: str) -> str:
    return f'"{quotable(text)}"'
