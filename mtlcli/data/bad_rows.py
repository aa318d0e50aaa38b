"""Rows that cannot be used, collected so that all of them are reported at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mtlcli.data.records import counted
from mtlcli.errors import MtlError

SHOWN = 20
"""Messages that `BadRows` keeps; the rest are only counted."""


@dataclass
class BadRows:
    """Messages about rows of one file or of several.

    Under "error", `raise_if_any` raises all messages at once; under "skip", `summary` says what was left out. `count` is
    the number of rows: a row with two bad labels counts once.
    """

    policy: Literal["error", "skip"] = "error"
    count: int = 0
    reports: int = 0
    messages: list[str] = field(default_factory=list)  # the first SHOWN
    _last: tuple[str, int] | None = None
    _folded: dict[tuple[str, str], int] = field(default_factory=dict)  # rows by file and kind, after the first
    _folded_messages: dict[str, tuple[str, str]] = field(default_factory=dict)

    def report(self, path: str | Path, line: int, message: str, *, kind: str = "") -> None:
        """Note that the row at `line` of `path` cannot be used.

        Rows with the same `kind` of fault are one message: a file in another encoding has the same fault in every row.
        """
        row = (str(path), line)
        # Reports about the same row come one after the other.
        self.count += row != self._last
        self._last = row
        if kind and (row[0], kind) in self._folded:
            self._folded[row[0], kind] += 1
            return
        self.reports += 1
        if self.reports <= SHOWN:
            self.messages.append(f"{path}:{line}: {message}")
            if kind:
                self._folded[row[0], kind] = 0
                self._folded_messages[self.messages[-1]] = (row[0], kind)

    def lines(self) -> list[str]:
        """Return the messages, and a line with the number of further ones."""
        lines = []
        for message in self.messages:
            more = self._folded.get(self._folded_messages.get(message, ("", "")), 0)
            lines.append(f"{message} ({counted(more, 'more row')})" if more else message)
        hidden = self.reports - len(self.messages)
        return [*lines, f"... and {hidden} more"] if hidden else lines

    def raise_if_any(self) -> None:
        """Raise if rows were reported and the policy is not to skip them.

        Raises:
            MtlError: one line per message.
        """
        if self.reports and self.policy == "error":
            raise MtlError(*self.lines())

    def summary(self) -> str:
        """Return `2 rows skipped (a.csv:7: label is empty; a.csv:9: label is empty)`, or "" where none was."""
        return f"{counted(self.count, 'row')} skipped ({'; '.join(self.lines())})" if self.count else ""
