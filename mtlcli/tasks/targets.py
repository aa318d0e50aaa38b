"""What a task predicts: a class or a score."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

UNSEEN = -1
"""Target of an evaluated row whose label did not occur in training: always counted as wrong."""


class Target(ABC):
    """What the label of a row is: a class, a score. Reads the text in the file, and is fitted once on the training rows."""

    @abstractmethod
    def fit(self, labels: Sequence[str]) -> "Target":
        """The same target with what was left open (label names, range) taken from the training rows' label texts."""

    @abstractmethod
    def parse(self, text: str) -> int | float:
        """The label of one row. Raises ValueError, whose text says what was expected."""

    @abstractmethod
    def as_array(self, parsed: Sequence[int | float]) -> np.ndarray:
        """The labels of all rows: int64 class indices or float64 scores (n,)."""


@dataclass(frozen=True)
class Classes(Target):
    """One of several classes. `values` maps what a file may say to the name of the class; None: taken from training."""

    values: Mapping[str, str] | None = None

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in index order."""
        return tuple(dict.fromkeys((self.values or {}).values()))

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Class index by everything a file may say: names, what stands for them, and both as whole numbers."""
        index = {label: number for number, label in enumerate(self.labels)}
        index |= {text: index[name] for text, name in (self.values or {}).items()}
        return {_whole(text): number for text, number in index.items()} | index

    def fit(self, labels: Sequence[str]) -> "Classes":
        """Sorts the distinct labels: by value where all are numbers, else as text. `1.0` is the class `1`."""
        if self.values is not None:
            return self
        distinct = {_whole(label) for label in labels} - {""}
        numeric = all(_number(label) is not None for label in distinct)
        ordered = sorted(distinct, key=lambda label: (float(label) if numeric else 0.0, label))
        return replace(self, values={label: label for label in ordered})

    def parse(self, text: str) -> int:
        """Index of the class. `1.0` is read as `1`. Raises ValueError for what is none of the classes."""
        found = self._indices.get(text)
        if found is None:
            found = self._indices.get(_whole(text))
        if found is None:
            known = list(self.values or {})
            raise ValueError(f"expected one of {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}")
        return found

    def as_array(self, parsed: Sequence[int | float]) -> np.ndarray:
        """int64 (n,)."""
        return np.asarray(parsed, dtype=np.int64)


def _whole(text: str) -> str:
    """A whole number without the `.0` that a table program gave it; any other text as it is."""
    match = re.fullmatch(r"([-+]?[0-9]+)\.0*", text)
    return match[1] if match else text


def _number(text: str) -> float | None:
    """A finite number as files write it; None for `nan`, `1_000` and everything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


@dataclass(frozen=True)
class Score(Target):
    """A number between `low` and `high`, in the units of the file; None: the range of the training rows."""

    low: float | None = None
    high: float | None = None
    mean: float = 0.0
    std: float = 1.0

    def fit(self, labels: Sequence[str]) -> "Score":
        """Takes mean and standard deviation from the training rows, and the range where none was declared."""
        numbers = np.asarray([self.parse(label) for label in labels], dtype=np.float64)
        low = float(numbers.min()) if self.low is None else self.low
        high = float(numbers.max()) if self.high is None else self.high
        return Score(low, high, float(numbers.mean()), float(numbers.std()) or 1.0)

    def parse(self, text: str) -> float:
        """The score. Raises ValueError for what is not a finite number."""
        number = _number(text)
        if number is None:
            raise ValueError("expected a number")
        return number

    def as_array(self, parsed: Sequence[int | float]) -> np.ndarray:
        """float64 (n,)."""
        return np.asarray(parsed, dtype=np.float64)
