"""Rows of a Parquet file through pyarrow, which is optional."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtlcli.errors import MtlError

BATCH = 4096
"""Rows in memory at a time."""


def _open(path: Path, name: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MtlError(f"{name}: reading Parquet needs pyarrow: pip install 'mtlcli[parquet]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise MtlError(f"{name}: is not a Parquet file that can be read ({reason[:120]})") from error


def parquet_columns(path: Path, name: str) -> tuple[str, ...]:
    """Return the names of the columns.

    Raises:
        MtlError: pyarrow is missing, or the file is not Parquet.
    """
    with _open(path, name) as file:
        return tuple(file.schema_arrow.names)


def parquet_rows(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row with its number, counted from 1. Numbers, texts and None are Python's own values.

    Raises:
        MtlError: pyarrow is missing, or the file is not Parquet or damaged.
    """
    number = 0
    with _open(path, name) as file:
        # After `_open`, which reports that pyarrow is missing.
        import pyarrow

        # A float of 4 bytes widened to 8 would read 0.10000000149011612 where 0.1 was written.
        short = [field.name for field in file.schema_arrow if field.type == pyarrow.float32()]
        try:
            for batch in file.iter_batches(batch_size=BATCH):
                columns = {column: batch.column(column).to_pylist() for column in batch.schema.names}
                for column in short:
                    texts = map(str, batch.column(column).to_numpy(zero_copy_only=False))
                    columns[column] = [
                        value if value is None else float(text)
                        for value, text in zip(columns[column], texts, strict=True)
                    ]
                for cells in zip(*columns.values(), strict=True):
                    number += 1
                    yield number, dict(zip(columns, cells, strict=True))
        except (pyarrow.ArrowException, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise MtlError(f"{name}: damaged after row {number} ({reason[:120]})") from error
