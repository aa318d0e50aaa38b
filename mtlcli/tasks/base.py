"""The contract of a task: what is read, predicted and measured."""

from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mtlcli.tasks.targets import Target


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
