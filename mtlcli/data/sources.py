"""Rows that are not in a file: the made-up sample, and the hub through the `datasets` library."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mtlcli.data.readers import BadRows, FileSource, TextRow, iterate
from mtlcli.errors import MtlError, suggest
from mtlcli.hub import hub_answers
from mtlcli.tasks.base import HubSource, Task, sample_rows


class MadeRows:
    """Rows made by a function, anew for every iteration; a row's line is its number from 1."""

    def __init__(self, name: str, make: Callable[[], Iterable[Mapping[str, Any]]], columns: tuple[str, ...]) -> None:
        self.name = name
        self.columns = columns
        self._make = make

    def column(self, wanted: str) -> str:
        """The column of this name. Raises MtlError when there is none."""
        if wanted not in self.columns:
            raise MtlError(f'{self.name}: no column "{wanted}"{suggest(wanted, self.columns)}')
        return wanted

    def rows(self) -> Iterator[TextRow]:
        """The rows, never bad ones."""
        for number, values in enumerate(sample_rows(self._make()), start=1):
            yield TextRow(number, values)


Source = FileSource | MadeRows


def rows_of(source: Source, bad: BadRows) -> Iterator[TextRow]:
    """The rows of either kind of source; what cannot be read goes to `bad`."""
    return iterate(source, bad) if isinstance(source, FileSource) else source.rows()


def sample_source(task: Task, split: str) -> MadeRows:
    """The made-up rows of a task. Raises MtlError for a task that has none."""
    first = next(iter(task.sample(split) or ()), None)
    if first is None:
        raise MtlError(
            f'tasks.{task.name}: "{task.name}" has no made-up rows for --sample; give it files: '
            f"--task {task.name}=train.tsv,dev.tsv"
        )
    return MadeRows(f"sample {task.name} {split}", lambda: task.sample(split) or (), tuple(first))


def _stay_offline(datasets: Any) -> None:
    """Tells the libraries, which read their environment when they are imported, not to wait for the hub."""
    datasets.config.HF_HUB_OFFLINE = True
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True


def hub_source(task: Task, hub: HubSource, split: str) -> MadeRows | None:
    """A task's rows from the hub, None where it has no such split. Raises MtlError with the three ways out."""
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
        _stay_offline(datasets)  # what is in its cache may still do
    try:
        found = datasets.load_dataset(hub.repository, hub.configuration, split=hub.splits[split])
    except Exception as error:  # the library raises many kinds, its own and others'
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MtlError(f"tasks.{task.name}: {hub.repository} cannot be read from the hub ({reason}): {ways}") from error

    def rows() -> Iterator[dict[str, Any]]:
        for row in found:
            yield {ours: "" if row[theirs] is None else row[theirs] for ours, theirs in hub.columns.items()}

    return MadeRows(f"hub {hub.repository} {split}", rows, tuple(hub.columns))
