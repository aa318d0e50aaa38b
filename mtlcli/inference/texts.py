"""Texts in memory, as a Python program has them: which tasks can read them, and their rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtlcli.data.encodings import BadText, RowEncoding, RowTexts, recorded_encoding
from mtlcli.data.readers import TextRow
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.inference.predict import Reading, primary_readings

TextInput = str | Sequence[str] | Mapping[str, str]
"""The texts of one row: a text, a pair of texts, or a mapping from column names to texts."""


def readings_of(record: Mapping[str, Any], first: TextInput | None, task: str | None) -> list[Reading]:
    """Return how the tasks of a run read rows like the first one.

    A text is read by the tasks of one text, a pair by those of two, a mapping by those whose columns it has.

    Args:
        record: `tasks` as in run.json.
        first: the first row; None if there are no rows, which every task can read.
        task: the only task to predict, or None for every task that can read the first row, auxiliary ones only if no other can.

    Raises:
        MtlError: there is no task of this name, or no task can read the first row.
    """
    tasks = record["tasks"]
    if task is not None and task not in tasks:
        raise MtlError(f'task: the run has no task "{task}"{suggest(task, tasks)}')
    # Tasks with the same columns and encoding share one reading, and so one pass of the encoder.
    tasks_by_reading: dict[tuple[tuple[str, ...], RowEncoding], list[int]] = {}
    for index, (name, section) in enumerate(tasks.items()):
        if task is None and first is not None and not _fits(section["text"], first):
            continue
        if task in (None, name):
            columns = tuple(section["text"]) if isinstance(first, Mapping) else _positions(len(section["text"]))
            tasks_by_reading.setdefault((columns, recorded_encoding(section)), []).append(index)
    if not tasks_by_reading:
        expected = [f"{_expected(section['text'])} for {name}" for name, section in tasks.items()]
        raise MtlError(f"texts[0]: found {_kind(first)}; expected {' or '.join(expected)}")
    readings = [Reading(columns, encoding, tuple(indices)) for (columns, encoding), indices in tasks_by_reading.items()]
    return readings if task is not None else primary_readings(readings, record)


def rows_of(texts: Iterable[TextInput], readings: Sequence[Reading], by_name: bool) -> Iterator[TextRow]:
    """Yield the texts as rows with the values that the readings need; the number of a row is its index.

    Raises:
        MtlError: a row is of another kind than the first one, lacks a column, or holds something other than text.
    """
    columns = list(dict.fromkeys(column for reading in readings for column in reading.columns))
    nested = {column for reading in readings if reading.encoding.nested for column in reading.columns}
    for index, item in enumerate(texts):
        # For a task of words a list is one text, not a pair of texts.
        if nested and columns == ["0"] and isinstance(item, list | tuple):
            _check_parts(item, f"texts[{index}]")
            yield TextRow(index, {"0": " ".join(map(str, item))}, {"0": list(item)})
            continue
        if not _fits(columns, item) or isinstance(item, Mapping) != by_name:
            expected = f"a mapping with the columns {one_of(columns)}" if by_name else _expected(columns)
            raise MtlError(f"texts[{index}]: found {_kind(item)}; expected {expected}")
        values = [item[column] for column in columns] if isinstance(item, Mapping) else _parts(item)
        for column, value in zip(columns, values, strict=True):
            where = f'texts[{index}]["{column}"]' if by_name else f"texts[{index}]"
            # The encoding checks the items of a list, see `texts_of`.
            if column in nested and isinstance(value, list | tuple):
                _check_parts(value, where)
                continue
            if not isinstance(value, str):
                raise MtlError(f"{where}: found {type(value).__name__} {value!r}; expected a text")
            check_text(value, where)
        originals = dict(zip(columns, values, strict=True))
        yield TextRow(index, {column: str(value) for column, value in originals.items()}, originals)


def texts_of(row: TextRow, reading: Reading) -> RowTexts:
    """Return the texts of a row of `rows_of` for a reading.

    Raises:
        MtlError: a list holds something other than words.
    """
    try:
        return reading.encoding.texts([row.original[column] for column in reading.columns])
    except BadText as error:
        raise MtlError(f"texts[{row.line}]{error}") from None


def _check_parts(parts: Sequence[Any], where: str) -> None:
    """Check the texts of a list; the encoding checks everything else."""
    for part in parts:
        if isinstance(part, str):
            check_text(part, where)


def check_text(text: str, where: str) -> None:
    """Raise MtlError for a string that is no Unicode text, which a tokenizer could not read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MtlError(f"{where}: found a lone surrogate at character {error.start}; expected Unicode text") from None


def must_be_several(texts: object) -> None:
    """Raise MtlError for a single row where a list of rows is expected: its characters or keys would be the rows."""
    if isinstance(texts, str | Mapping):
        raise MtlError(f"texts: found {_kind(texts)}; expected a list of rows, even for one of them: predict([text])")


def _positions(count: int) -> tuple[str, ...]:
    """Name the texts of a row by position, so that tasks with other column names share one pass through the encoder."""
    return tuple(str(position) for position in range(count))


def _parts(item: TextInput) -> list[Any]:
    return [item] if isinstance(item, str) else list(item)


def _fits(columns: Sequence[str], item: object) -> bool:
    """Return whether a row has the texts of these columns."""
    if isinstance(item, str):
        return len(columns) == 1
    if isinstance(item, Mapping):
        return set(columns) <= set(item)
    return isinstance(item, Sequence) and len(item) == len(columns) == 2


def _expected(columns: Sequence[str]) -> str:
    """Describe the rows that a task with these columns reads."""
    if list(columns) in ([*_positions(1)], [*_positions(2)]):
        return "a text" if len(columns) == 1 else "a pair of texts"
    return f"{'a text' if len(columns) == 1 else 'a pair of texts'} or a mapping with {' and '.join(columns)}"


def _kind(item: object) -> str:
    """Describe a row as a user wrote it."""
    if isinstance(item, str):
        return "a text"
    if isinstance(item, Mapping):
        return f"a mapping with {one_of(map(str, item))}"
    if isinstance(item, Sequence):
        return "a pair of texts" if len(item) == 2 else f"{len(item)} texts"
    return f"{type(item).__name__} {item!r}"[:60]
