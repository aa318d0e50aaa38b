"""Rows that are not in a file: the made-up sample, and the hub through the `datasets` library."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtlcli.data.conll import DOCUMENT
from mtlcli.data.readers import BadRows, FileSource, TextRow, iterate
from mtlcli.data.records import cell_text
from mtlcli.data.row_filter import FilterCounts, RowFilter
from mtlcli.errors import MtlError, quotable, suggest
from mtlcli.hub import hub_answers
from mtlcli.tasks.base import HubSource, Task


class MadeRows:
    """Rows made by a function, which every iteration calls again; a row's line is its number from 1.

    `where` is the filter that `rows_of` applies to them.
    """

    def __init__(self, name: str, make: Callable[[], Iterable[Mapping[str, Any]]], columns: tuple[str, ...]) -> None:
        self.name = name
        self.columns = columns
        self.where: RowFilter | None = None
        self._make = make

    def column(self, wanted: str, *, nested: bool = False) -> str:
        """Return the column of this name; any column can hold lists and objects.

        Raises:
            MtlError: there is none.
        """
        if wanted not in self.columns:
            raise MtlError(f'{self.name}: no column "{wanted}"{suggest(wanted, self.columns)}')
        return wanted

    def rows(self) -> Iterator[TextRow]:
        """Yield the rows; none of them can be bad."""
        for number, row in enumerate(self._make(), start=1):
            yield TextRow(number, {key: cell_text(value) for key, value in row.items()}, row)


Source = FileSource | MadeRows


def rows_of(source: Source, bad: BadRows, dropped: FilterCounts | None = None) -> Iterator[TextRow]:
    """Yield the rows of either kind of source that its filter keeps.

    Unreadable rows are reported to `bad`, and rows that the filter drops are counted in `dropped`.
    """
    # A row that cannot be read is reported even if the filter would drop it: it has no cells to compare.
    rows = iterate(source, bad) if isinstance(source, FileSource) else source.rows()
    return rows if source.where is None else _kept(rows, source.where, dropped)


def _kept(rows: Iterator[TextRow], where: RowFilter, dropped: FilterCounts | None) -> Iterator[TextRow]:
    for row in rows:
        if where.keeps(row.values):
            yield row
        elif dropped is not None:
            dropped.count(row.values, where.values)


def filtered(source: Source, where: Mapping[str, Sequence[str]], key: str) -> Source:
    """Return the source with a filter by column; the source as it is without one.

    Args:
        where: by column, the texts of which a row must have one.
        key: the task's key of the filter, for messages.

    Raises:
        MtlError: the source has no such column.
    """
    if where:
        values = {row_column(source, column, key): frozenset(texts) for column, texts in where.items()}
        source.where = RowFilter(key, values)
    return source


def row_column(source: Source, wanted: str, key: str) -> str:
    """Return a column that has one text for each row.

    Args:
        key: the task's key that names the column, for messages.

    Raises:
        MtlError: the source has no such column, or it has a value for each word.
    """
    if isinstance(source, FileSource) and source.format.is_conll and wanted != DOCUMENT:
        raise MtlError(
            f'{key}: {source.name}: found "{quotable(wanted)}", and columns of CoNLL files have a value for each word, none for the '
            f"sentence; expected {DOCUMENT}, or use JSONL"
        )
    try:
        return source.column(wanted)
    except MtlError as error:
        raise MtlError(*(f"{key}: {line}" for line in error.lines)) from error


def sample_source(task: Task, split: str) -> MadeRows:
    """Return the made-up rows of a task.

    Raises:
        MtlError: the task has none.
    """
    first = next(iter(task.sample(split) or ()), None)
    if first is None:
        raise MtlError(
            f'tasks.{task.name}: "{task.name}" has no made-up rows for --sample; give it files: '
            f"--task {task.name}=train.tsv,dev.tsv"
        )
    return MadeRows(f"sample {task.name} {split}", lambda: task.sample(split) or (), tuple(first))


def _stay_offline(datasets: Any) -> None:
    """Keep the libraries from waiting for the hub; they have read their environment at import, so it is too late for that."""
    datasets.config.HF_HUB_OFFLINE = True
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True


def hub_source(task: Task, hub: HubSource, split: str) -> MadeRows | None:
    """Return a task's rows from the hub, None where it has no such split.

    Raises:
        MtlError: the rows cannot be downloaded; the message lists the alternatives.
    """
    if split not in hub.splits:
        return None
    ways = (
        f"give its files (--task {task.name}=train.tsv,dev.tsv, or --data FOLDER), use the made-up corpus (--sample), or "
        "go online with `pip install 'mtlcli[hub]'`"
    )
    try:
        import datasets
    except ImportError:
        raise MtlError(f'tasks.{task.name}: no data, and the library "datasets" is not installed: {ways}') from None
    if not hub_answers():
        _stay_offline(datasets)  # its cache may hold the data
    try:
        rows = datasets.load_dataset(hub.repository, hub.configuration, split=hub.splits[split])
    except Exception as error:  # the library raises exceptions of many other libraries
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MtlError(f"tasks.{task.name}: {hub.repository} cannot be read from the hub ({reason}): {ways}") from error

    def renamed() -> Iterator[dict[str, Any]]:
        for row in rows:
            yield {name: "" if row[column] is None else row[column] for name, column in hub.columns.items()}

    return MadeRows(f"hub {hub.repository} {split}", renamed, tuple(hub.columns))
