"""From texts in a file or a pipe to predictions, in the input's order and number, in constant memory.

Rows are read in windows. Within a window they are tokenized together and run longest first in batches of limited size, so
a batch is hardly padded; then they are put back in order. Tasks that read the same texts in the same way share one pass
through the encoder.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mtlcli.data.batching import by_length, collate
from mtlcli.data.encoding import Encoded, Tokenizer
from mtlcli.data.reading import BadRows, FileSource, Row, iterate
from mtlcli.errors import MtlError, one_of
from mtlcli.run_folder import SavedRun

WINDOW = 4096
"""Rows read at a time, once the first small windows have shown that there are so many."""


@dataclass(frozen=True)
class Reading:
    """One way of reading a row: these columns, encoded like this, for these tasks (indices)."""

    columns: tuple[str, ...]
    encoding: str
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """What one task says of one row: a label with the probability of every label, or a score."""

    label: str | None
    probabilities: Mapping[str, float] | None
    score: float | None


def find_readings(run: SavedRun, source: FileSource, wanted: Sequence[str]) -> list[Reading]:
    """Which columns each task reads; without `wanted`, every task whose columns are there.

    Plain text has one text a line, or the two of a pair with a tab between them. Raises MtlError where a wanted task's
    columns are missing, and where no task finds its own.
    """
    found: dict[tuple[tuple[str, ...], str], list[int]] = {}
    missing = []
    for index, facts in enumerate(run.facts):
        if wanted and facts.name not in wanted:
            continue
        record = run.record["tasks"][facts.name]
        columns = _columns(source, tuple(record["text"]))
        if columns is None:
            missing.append(f"{facts.name} needs {' and '.join(record['text'])}")
        else:
            found.setdefault((columns, record["encoding"]), []).append(index)
    if missing and (wanted or not found):
        raise MtlError(f"{source.name}: has the columns {one_of(source.columns)}, but {'; '.join(missing)}")
    return [Reading(columns, encoding, tuple(tasks)) for (columns, encoding), tasks in found.items()]


def _columns(source: FileSource, texts: tuple[str, ...]) -> tuple[str, ...] | None:
    if source.format.name == "text":
        return ("text",) if len(texts) == 1 else ("text", "text")
    if set(texts) <= set(source.columns):
        return texts
    try:
        return tuple(source.column(text) for text in texts)
    except MtlError:
        return None


def predict(
    run: SavedRun, source: FileSource, readings: Sequence[Reading], *, device: torch.device,
    autocast: AbstractContextManager[object], tokens: int = 4096, window: int = WINDOW,
) -> Iterator[tuple[Row, dict[str, Prediction]]]:  # fmt: skip
    """Every row with the predictions of every task, in order. Labels in the input are not looked at.

    Raises MtlError, after the rows before it, for a row that cannot be read.
    """
    tokenizer = Tokenizer(run.encoder.tokenizer, run.config.encoder.max_length)
    bad = BadRows()
    rows = iterate(source, bad)
    size = 64
    while chunk := list(islice(rows, size)):
        found: list[dict[str, Prediction]] = [{} for _ in chunk]
        for reading in readings:
            texts = [_texts(source, row, reading) for row in chunk]
            for index, outputs in _outputs(run, reading, texts, tokenizer, device, autocast, tokens).items():
                for row, prediction in enumerate(_decode(run, index, outputs)):
                    found[row][run.facts[index].name] = prediction
        yield from zip(
            chunk, ({fact.name: one[fact.name] for fact in run.facts if fact.name in one} for one in found), strict=True
        )
        bad.raise_if_any()
        size = min(window, 4 * size)
    bad.raise_if_any()


def _texts(source: FileSource, row: Row, reading: Reading) -> tuple[str, ...]:
    if source.format.name != "text" or len(reading.columns) == 1:
        return tuple(row.values[column] for column in reading.columns)
    first, tab, second = row.values["text"].partition("\t")
    if not tab and row.values["text"].strip():
        raise MtlError(f"{source.name}:{row.line}: expected two texts with a tab between them, found one")
    return first, second


def _outputs(
    run: SavedRun, reading: Reading, texts: list[tuple[str, ...]], tokenizer: Tokenizer, device: torch.device,
    autocast: AbstractContextManager[object], tokens: int,
) -> dict[int, Tensor]:  # fmt: skip
    """Outputs (rows, ...) of each task of a reading, by one pass through the encoder."""
    if reading.encoding == "bi":
        sides = tuple(tokenizer.sequences([(text[side],) for text in texts]) for side in range(len(reading.columns)))
    else:
        sides = (tokenizer.sequences(texts),)
    encoded = Encoded(sides, None, tokenizer.pad)
    found: dict[int, Tensor] = {}
    model = run.model
    with torch.inference_mode(), autocast:
        for rows in by_length(encoded.lengths(), tokens=tokens, rows=tokens // 8):
            batch = collate(encoded, reading.tasks[0], rows).to(device)
            where = torch.from_numpy(rows)
            for group in shared_features(run, reading.tasks):
                hidden = model.hidden(group[0], model.inputs(group[0], batch))
                for task in group:
                    output = model.output(task, batch.sides, hidden, batch.mask).float().cpu()
                    if task not in found:
                        found[task] = torch.empty(len(texts), *output.shape[1:], dtype=output.dtype)
                    found[task][where] = output
    return found


def shared_features(run: SavedRun, tasks: Sequence[int]) -> list[list[int]]:
    """Groups of tasks whose features are the same for the same text: all of them, where no task owns part of the
    architecture and they ask for the same layers."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for task in tasks:
        own = task if run.model.architecture.private_parameters(task) else -1
        groups.setdefault((own, run.model.wants_all_layers([task])), []).append(task)
    return list(groups.values())


def _decode(run: SavedRun, task: int, outputs: Tensor) -> Iterable[Prediction]:
    labels = run.facts[task].labels
    decoded = run.model.head(task).decode(outputs)
    values = decoded.values.tolist()
    if labels is None:
        return [Prediction(None, None, float(value)) for value in values]
    if decoded.probabilities is None:
        return [Prediction(labels[value], None, None) for value in values]
    found = decoded.probabilities.tolist()
    return [
        Prediction(labels[value], dict(zip(labels, row, strict=True)), None)
        for value, row in zip(values, found, strict=True)
    ]


def as_json(row: Row, predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    """One row of JSONL: the row's id if it has one, then each task's label and probabilities, or its score."""
    found: dict[str, Any] = {"id": row.values["id"]} if "id" in row.values else {}
    for task, one in predictions.items():
        if one.score is not None:
            found[task] = {"score": round(one.score, 6)}
        else:
            found[task] = {"label": one.label}
            if one.probabilities is not None:
                found[task]["probabilities"] = {label: round(p, 6) for label, p in one.probabilities.items()}
    return found


def as_cells(row: Row, predictions: Mapping[str, Prediction]) -> dict[str, str]:
    """One row of CSV or TSV: `id`, `sst.label`, `sst.probability.positive`, `sts.score`."""
    found: dict[str, str] = {"id": row.values["id"]} if "id" in row.values else {}
    for task, one in predictions.items():
        if one.score is not None:
            found[f"{task}.score"] = f"{one.score:.6f}"
        else:
            found[f"{task}.label"] = one.label or ""
            found |= {f"{task}.probability.{label}": f"{p:.6f}" for label, p in (one.probabilities or {}).items()}
    return found
