"""The contract of a task: what is read, predicted and measured."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

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


@dataclass(frozen=True)
class HubSource:
    """Where the `datasets` library finds a task's rows: splits by our names, columns by the task's names."""

    repository: str
    configuration: str | None
    splits: Mapping[str, str]
    columns: Mapping[str, str]


class Task(ABC):
    """One kind of task. A plugin derives from this class, sets the attributes below and takes its options by keyword.

    texts      columns of the text(s), by header name; empty where the user or the header decides
    label      column of the label; empty likewise
    pair       whether a row holds two texts
    target     what is predicted: `Classes` or `Score`
    heads      encoding -> default head; the first encoding is the default one
    metrics    names of its metrics; the first is the primary one, by which checkpoints are selected
    files      split -> file name inside the folder of `--data`
    hub        where the rows are on the hub, if they are there
    on_bad_row what is usual with a row that cannot be read: `error` or `skip`
    """

    texts: ClassVar[tuple[str, ...]] = ()
    label: ClassVar[str] = ""
    pair: ClassVar[bool] = False
    target: Target
    heads: ClassVar[Mapping[str, str]]
    metrics: ClassVar[tuple[str, ...]]
    files: ClassVar[Mapping[str, str]] = {}
    hub: ClassVar[HubSource | None] = None
    on_bad_row: ClassVar[str] = "error"

    def __init__(self, name: str) -> None:
        self.name = name

    def sample(self, split: str) -> Iterable[Mapping[str, Any]] | None:
        """Made-up rows for `--sample`, by column name; None where the task has none. Splits: train, dev, test."""
        return None


def sample_rows(rows: Iterable[Mapping[str, Any]] | None) -> Iterator[dict[str, str]]:
    """The rows of `Task.sample` with every value as text, as a file would give them."""
    for row in rows or ():
        yield {key: str(value) for key, value in row.items()}
