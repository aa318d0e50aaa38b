"""Targets without labels: rows are texts alone, from which only an architecture's own loss learns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlcli.tasks.ragged import Arrays, Ragged
from mtlcli.tasks.target_base import Raw, Target
from mtlcli.tasks.words import Text

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoLabel(Target):
    """Nothing. Gold and predictions: `row` (n,) int8, 1 for every row that is one, so that rows can be counted."""

    kind = "none"
    columns = ()
    noise = "softmax"

    def describe(self) -> str:
        """Return `nothing`."""
        return "nothing"

    @property
    def meaning(self) -> str:
        """The same for all tasks without labels."""
        return "nothing"

    # Reading

    def parse(self, raw: Raw) -> int:
        """Return 1."""
        return 1

    def fit(self, raws: Iterable[Raw]) -> "NoLabel":
        """Return the target as it is."""
        return self

    def pack(self, items: Sequence[int]) -> Arrays:
        """Return `row`."""
        return Ragged({"row": np.asarray(items, dtype=np.int8)})

    def is_constant(self, gold: Arrays) -> bool:
        """Return False: texts differ."""
        return False

    def check(self, gold: Arrays) -> list[str]:
        """Return that there is no label."""
        return ["texts without labels"]

    def record(self) -> dict[str, Any]:
        """Return the kind."""
        return {"kind": self.kind}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "NoLabel":
        """Return the target of a record."""
        return cls()

    # A batch

    def known(self, gold: Any) -> Any:
        """Return which rows are some (n,)."""
        return gold["row"] == 1

    def outputs(self) -> int:
        """Return 0."""
        return 0

    def examples(self, n: int) -> Arrays:
        """Return n rows."""
        return self.pack([1] * n)

    # Losses

    @property
    def guess(self) -> float:
        """Return 1: the scale of a loss that the architecture adds is not known."""
        return 1.0

    def divergence(self, a: "Tensor", b: "Tensor") -> "Tensor":
        """Return 0 for each of the outputs (n, 0)."""
        return a.float().sum(-1)

    # Predictions

    def average(self, votes: Sequence[Arrays], owners: Sequence[Target]) -> Arrays:
        """Return the first vote."""
        return votes[0]

    def as_json(
        self, predicted: Arrays, row: int, texts: Sequence[Text] = (), *, exact: bool = False
    ) -> dict[str, Any]:
        """Return no values."""
        return {}

    def from_json(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return `row`."""
        return self.pack([1] * len(rows))

    def gold_json(self, gold: Arrays, row: int) -> bool | None:
        """Return True for a row that is one."""
        return True if int(gold["row"][row]) else None

    def gold_from_json(self, values: Sequence[Any]) -> Arrays:
        """Return `row`."""
        return self.pack([int(value is not None) for value in values])

    def cells(self) -> list[str]:
        """Return no columns."""
        return []

    def as_cells(self, predicted: Arrays, row: int, texts: Sequence[Text] = ()) -> dict[str, str]:
        """Return no cells."""
        return {}
