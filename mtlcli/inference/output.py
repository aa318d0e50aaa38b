"""Predictions as rows of JSONL, CSV or TSV, beside the columns of the input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtlcli.data.readers import FileSource, TextRow
from mtlcli.data.records import cell_text, json_text, quotable
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import TaskFacts
from mtlcli.inference.predict import Prediction

KEEP, NONE = "keep", "none"
PREFIX = "predicted."


@dataclass(frozen=True)
class OutputColumns:
    """Which columns of the input go to the output, and the names of those for predictions.

    `keeps_all` says that a key which only a later object of a JSON stream has belongs to the output as well. `prefixes`
    maps a task to the beginning of its columns: its name, unless the input has a column that would be called the same.
    """

    source: FileSource
    kept: tuple[str, ...]
    keeps_all: bool
    prefixes: Mapping[str, str]
    facts: tuple[TaskFacts, ...]

    def header(self) -> list[str]:
        """Return the columns of CSV or TSV, in the order of `cells`."""
        return [*self.kept, *(name for task in self.facts for name in _columns_of(task, self.prefixes[task.name]))]

    def cells(self, row: TextRow, predictions: Mapping[str, Prediction]) -> list[str]:
        """Return one row of CSV or TSV: the input's columns, then `sst.label`, `sst.probability.positive`, `sts.score`.

        Raises:
            MtlError: the row of a stream has a key that the first row lacks, so that there is no column for it.
        """
        # The original values of a sentence are lists of cells; its text has them joined by spaces.
        if self.source.format.is_conll:
            values = {key: text for key, text in row.values.items() if self.keeps_all or key in self.kept}
        else:
            values = self._values(row)
        if extra := [key for key in values if key not in self.kept]:
            raise MtlError(
                f'{self.source.name}:{row.line}: the key "{quotable(extra[0])}" is not in the first row, which the columns '
                "are taken from; use --format jsonl, or name the columns with --columns"
            )
        cells = [cell_text(values.get(column)) for column in self.kept]
        for task in self.facts:
            values = predictions[task.name].as_cells()
            cells += [values.get(name, "") for name in task.target.cells()]
        return cells

    def json_line(self, row: TextRow, predictions: Mapping[str, Prediction]) -> str:
        """Return one row of JSONL: the input's values as they came, then each task's label and probabilities, or score.

        Raises:
            MtlError: the row of a stream has a key with the name of a prediction, which earlier rows did not have.
        """
        line = self._values(row)
        for task in self.facts:
            key = self.prefixes[task.name]
            if key in line:
                raise MtlError(
                    f'{self.source.name}:{row.line}: the key "{key}" is the name of a prediction, and earlier rows do not have '
                    "it; use --columns none, or name the columns to keep"
                )
            line[key] = predictions[task.name].as_json()
        return json_text(line)

    def _values(self, row: TextRow) -> dict[str, Any]:
        """Return the values of the input that go to the output."""
        values = row.original if self.source.format.has_nesting else row.values
        if self.keeps_all:
            return dict(values)
        return {column: values.get(column) for column in self.kept}


def output_columns(source: FileSource, facts: Sequence[TaskFacts], choice: str | None) -> OutputColumns:
    """Decide which columns to keep: `keep` for all, `none`, or names with commas between them.

    Without a choice all are kept, except that plain text has no columns. The columns of predictions never share a name
    with one of the input, whether that is kept or not.

    Raises:
        MtlError: a column that is named is not in the input.
    """
    available = source.all_columns()
    if choice is None:
        choice = NONE if source.format.name == "text" else KEEP
    kept: tuple[str, ...]
    if choice == KEEP:
        kept = available
    elif choice == NONE:
        kept = ()
    else:
        kept = tuple(dict.fromkeys(_column(source, available, name.strip()) for name in choice.split(",")))
    taken = {*available, *kept}
    prefixes = {}
    for task in facts:
        prefix = task.name
        # Repeated, because the input can be the output of an earlier prediction, with `predicted.` columns of its own.
        while taken & {prefix, *_columns_of(task, prefix)}:
            prefix = PREFIX + prefix
        prefixes[task.name] = prefix
    return OutputColumns(source, kept, choice == KEEP and source.format.is_json, prefixes, tuple(facts))


def _column(source: FileSource, available: Sequence[str], name: str) -> str:
    """Return the column with this name or number; a stream of JSON may have it in a later row."""
    # Only the first row of a stream has been read, and a later one can have the key.
    if name in available or (source.format.is_json and source.is_stream):
        return name
    if not source.format.has_nesting and name.isdecimal():
        return source.column(name)
    raise MtlError(f'--columns: {source.name} has no column "{name}"{suggest(name, available)}')


def _columns_of(task: TaskFacts, prefix: str) -> list[str]:
    """Return the columns of CSV or TSV that a task's predictions take."""
    return [f"{prefix}.{name}" for name in task.target.cells()]
