"""A table of the numbers of a run: an example to change. Say here which program shows them."""

import csv
from collections.abc import Mapping
from typing import IO, Annotated, Any

from pydantic import Field

from mtlcli.trackers.base import TrackedRun, Tracker


class Example(Tracker):
    """Write step, name and value of every number to `numbers.csv` in the run folder."""

    def __init__(
        self, *, every: Annotated[int, Field(ge=1, description="write every N-th step, and every evaluation")] = 1
    ) -> None:
        self.every = every
        self._file: IO[str] | None = None
        self._table: Any = None

    def start(self, run: TrackedRun) -> str | None:
        """Open the file: a new one for a new run, the end of the old one for a resumed run."""
        mode = "a" if run.first_step else "w"
        file = (run.storage / "numbers.csv").open(mode, encoding="utf-8", newline="")
        self._file, self._table = file, csv.writer(file)
        return None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row for each number."""
        self._table.writerows((step, name, value) for name, value in values.items())

    def finish(self, why: str) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
