"""From texts in a file or a pipe to predictions, in the input's order and number, in constant memory.

Rows are read in windows. Within a window they are tokenized together and run longest first in batches of limited size, so
a batch is hardly padded; then they are put back in order. Tasks that read the same texts in the same way share one pass
through the encoder.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtlcli.data.batches import by_length, collate
from mtlcli.data.readers import BadRows, FileSource, TextRow, iterate
from mtlcli.data.tokens import TokenizedSplit, Tokenizer, TokenSequences
from mtlcli.errors import MtlError, one_of
from mtlcli.facts import TaskFacts
from mtlcli.inference.predictor import Predictor
from mtlcli.model.predict import Predicted
from mtlcli.runs.saved_model import SavedRun

WINDOW = 4096
"""Rows read at a time, once the first small windows have shown that there are so many."""
CHARACTERS = 1 << 19
"""Characters after which a window is full: tokenizing takes some hundred bytes for each."""
BATCH_TOKENS = {"cpu": 1024}
"""Largest batch, padding included, by the type of the device: as large as keeps it busy, for small ones pad less."""
BATCH_TOKENS_ELSEWHERE = 8192
PATIENCE = 0.05
"""Seconds for which a window waits for more rows of a pipe."""
CHARACTERS_PER_TOKEN = 64
"""A text is cut here, at a space, before it is tokenized, unless that leaves fewer tokens than the encoder takes."""


@dataclass(frozen=True)
class Reading:
    """One way of reading a row: these columns, encoded like this, for these tasks (indices)."""

    columns: tuple[str, ...]
    encoding: str
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class _Pass:
    """One way in which one run reads a row. The tasks of `reading` are the run's own indices; `ours` are the same tasks."""

    run: SavedRun
    tokenizer: Tokenizer
    reading: Reading
    ours: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """What one task says of one row: a label with the probability of every label, or a score."""

    label: str | None
    probabilities: Mapping[str, float] | None
    score: float | None


def find_readings(
    record: Mapping[str, Any],
    source: FileSource,
    wanted: Sequence[str] = (),
    columns: Sequence[str] = (),
    first: str = "",
) -> list[Reading]:
    """Which columns each task of a run (its run.json) reads; without `wanted`, every task whose columns are there.

    `columns`, by name or number, stand in for those of training. Plain text has one text a line, or the two of a pair
    with a tab between them: without `wanted`, its `first` line decides which tasks can read it. Raises MtlError where a
    wanted task's columns are missing, and where no task finds its own.
    """
    plain = source.format.name == "text"
    if columns and plain:
        raise MtlError(f"--text: {source.name} is read as plain text, which has no columns; see --input-format")
    found: dict[tuple[tuple[str, ...], str], list[int]] = {}
    missing = []
    for index, (name, task) in enumerate(record["tasks"].items()):
        if wanted and name not in wanted:
            continue
        texts = ("text",) * len(task["text"]) if plain else tuple(columns or task["text"])
        if len(texts) != len(task["text"]):
            missing.append(f"{name} reads {len(task['text'])} of them, --text names {len(texts)}")
        elif (keys := _columns(source, texts, search=bool(wanted or columns))) is None:
            missing.append(f"{name} needs {' and '.join(texts)}")
        else:
            found.setdefault((keys, task["encoding"]), []).append(index)
    if missing and (wanted or not found):
        instead = "" if columns else "; say which to read with --text NAME, or its number from 0"
        raise MtlError(f"{source.name}: has the columns {one_of(source.columns)}, but {'; '.join(missing)}{instead}")
    readings = [Reading(keys, encoding, tuple(tasks)) for (keys, encoding), tasks in found.items()]
    if plain and not wanted:
        fitting = [reading for reading in readings if (len(reading.columns) == 2) == ("\t" in first)]
        return fitting or readings
    return readings


def _columns(source: FileSource, texts: tuple[str, ...], *, search: bool) -> tuple[str, ...] | None:
    """The keys of the rows' values, None where a column is missing. With `search`, a key that the first object of JSONL
    lacks is looked for in the others."""
    if source.format.name == "text" or (not search and not set(texts) <= set(source.columns)):
        return texts if source.format.name == "text" else None
    try:
        return tuple(source.column(text) for text in texts)
    except MtlError:
        return None


def check(source: FileSource, readings: Sequence[Reading]) -> None:
    """Reads all rows of a file. Raises MtlError with every row that cannot be predicted."""
    bad = BadRows()
    for _ in _usable(source, readings, bad):
        pass
    bad.raise_if_any()


def predict(
    predictor: Predictor, source: FileSource, readings: Sequence[Reading], *, device: torch.device,
    autocast: AbstractContextManager[object], tokens: int | None = None, window: int = WINDOW,
    ready: Callable[[float], bool] | None = None,
) -> Iterator[tuple[TextRow, dict[str, Prediction]]]:  # fmt: skip
    """Every row with the predictions of every task that `readings` names, in order. Labels in the input are not looked at.

    `tokens` limits a batch, padding included, and `window` the rows in memory; neither changes a prediction. `ready(seconds)`
    says whether the source, a pipe, has more within that time: rows that are there are not kept waiting for those to come.

    Raises MtlError, after the rows before it, for a row that cannot be read.
    """
    rows = _until_bad(source, readings)
    yield from predict_rows(
        predictor, rows, readings, lambda row, reading: _texts(source, row, reading), device=device, autocast=autocast,
        tokens=tokens, window=window, ready=ready,
    )  # fmt: skip


def predict_rows(
    predictor: Predictor, rows: Iterator[TextRow], readings: Sequence[Reading], texts_of: Callable[[TextRow, Reading], tuple[str, ...]],
    *, device: torch.device, autocast: AbstractContextManager[object], tokens: int | None = None, batch_rows: int | None = None,
    window: int = WINDOW, ready: Callable[[float], bool] | None = None,
) -> Iterator[tuple[TextRow, dict[str, Prediction]]]:  # fmt: skip
    """Yield every row with its predictions, in order.

    `texts_of` returns the one or two texts of a row for a reading; `batch_rows` limits the rows of a batch. The other arguments
    are those of `predict`.

    Raises:
        MtlError: after the rows before it, for a row that cannot be read.
    """
    passes = _passes(predictor, readings)
    tasks = sorted(index for reading in readings for index in reading.tasks)
    limit = tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS_ELSEWHERE)
    for chunk in _windows(rows, window, ready):
        votes: dict[tuple[int, int], Predicted] = {}  # by our index of the task, and the run
        for one in passes:
            texts = [texts_of(row, one.reading) for row in chunk]
            found = _outputs(
                one.run, one.reading, texts, one.tokenizer, device, autocast, limit, batch_rows or limit // 8
            )
            for own, ours in zip(one.reading.tasks, one.ours, strict=True):
                votes[ours, id(one.run)] = _vote(one.run, own, found[own])
        answers = {
            predictor.facts[task].name: _decode(
                predictor.facts[task],
                predictor.joined(task, [votes[task, id(member.run)] for member in predictor.members[task]]),
            )
            for task in tasks
        }
        for number, row in enumerate(chunk):
            yield row, {name: each[number] for name, each in answers.items()}


def _passes(predictor: Predictor, readings: Sequence[Reading]) -> list[_Pass]:
    """What has to be run for these readings: each run reads a row as it was trained to, whatever the others do."""
    found: dict[tuple[int, tuple[str, ...], str], list[tuple[int, int]]] = {}
    runs = {}
    for reading in readings:
        for ours in reading.tasks:
            for member in predictor.members[ours]:
                runs[id(member.run)] = member.run
                found.setdefault((id(member.run), reading.columns, member.encoding), []).append((member.task, ours))
    tokenizers = {key: Tokenizer(run.encoder.tokenizer, run.config.encoder.max_length) for key, run in runs.items()}
    return [
        _Pass(runs[key], tokenizers[key], Reading(columns, encoding, tuple(own for own, _ in tasks)), tuple(o for _, o in tasks))
        for (key, columns, encoding), tasks in found.items()
    ]  # fmt: skip


def _usable(source: FileSource, readings: Sequence[Reading], bad: BadRows) -> Iterator[TextRow]:
    """The rows that can be predicted; the others are reported to `bad`."""
    pairs = source.format.name == "text" and any(len(reading.columns) == 2 for reading in readings)
    for row in iterate(source, bad):
        if pairs and "\t" not in row.values["text"] and row.values["text"].strip():
            bad.report(source.name, row.line, "expected two texts with a tab between them, found one")
        else:
            yield row


def _until_bad(source: FileSource, readings: Sequence[Reading]) -> Iterator[TextRow]:
    """The rows before the first bad one, then MtlError if there is one."""
    bad = BadRows()
    for row in _usable(source, readings, bad):
        bad.raise_if_any()
        yield row
    bad.raise_if_any()


def _windows(rows: Iterator[TextRow], most: int, ready: Callable[[float], bool] | None) -> Iterator[list[TextRow]]:
    """The rows in lists, short ones first: whoever reads the first predictions need not wait for thousands. An MtlError of
    `rows` comes after the rows before it."""
    size, failure, more = min(most, 64), None, True
    while more:
        chunk: list[TextRow] = []
        characters, start = 0, time.monotonic()
        more = False
        try:
            for row in rows:
                start = start if chunk else time.monotonic()
                chunk.append(row)
                characters += sum(map(len, row.values.values()))
                if len(chunk) >= size or characters > CHARACTERS or (
                    ready is not None and not ready(start + PATIENCE - time.monotonic())
                ):  # fmt: skip
                    more = True
                    break
        except MtlError as error:
            failure = error
        if chunk:
            yield chunk
        size = min(most, 4 * size)
    if failure is not None:
        raise failure


def _texts(source: FileSource, row: TextRow, reading: Reading) -> tuple[str, ...]:
    if source.format.name == "text" and len(reading.columns) == 2:
        first, _, second = row.values["text"].partition("\t")
        return first, second
    return tuple(row.values[column] for column in reading.columns)


def text_sequences(tokenizer: Tokenizer, texts: list[tuple[str, ...]]) -> TokenSequences:
    """The texts as token numbers; of a text without end, only as much is tokenized as the encoder takes."""
    limit = CHARACTERS_PER_TOKEN * tokenizer.max_length
    if all(len(part) <= limit for text in texts for part in text):
        return tokenizer.sequences(texts)
    short = [tuple(_cut(part, limit) for part in text) for text in texts]
    found = tokenizer.sequences(short)
    again = [
        row for row, length in enumerate(found.lengths()) if length < tokenizer.max_length and short[row] != texts[row]
    ]
    if not again:
        return found
    for row in again:
        short[row] = texts[row]
    return tokenizer.sequences(short)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit].rpartition(" ")[0] or text[:limit]


def _outputs(
    run: SavedRun, reading: Reading, texts: list[tuple[str, ...]], tokenizer: Tokenizer, device: torch.device,
    autocast: AbstractContextManager[object], tokens: int, batch_rows: int,
) -> dict[int, Tensor]:  # fmt: skip
    """Outputs (rows, ...) of each task of a reading, by one pass through the encoder."""
    if reading.encoding == "bi":
        sides = tuple(
            text_sequences(tokenizer, [(text[side],) for text in texts]) for side in range(len(reading.columns))
        )
    else:
        sides = (text_sequences(tokenizer, texts),)
    tokenized = TokenizedSplit(sides, None, tokenizer.pad)
    found: dict[int, Tensor] = {}
    model, groups = run.model, shared_features(run, reading.tasks)
    with torch.inference_mode(), autocast:
        for rows in by_length(tokenized.lengths(), tokens=tokens, rows=batch_rows):
            batch = collate(tokenized, reading.tasks[0], rows).to(device)
            where = torch.from_numpy(rows)
            for group in groups:
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


def _vote(run: SavedRun, task: int, outputs: Tensor) -> Predicted:
    """What a run says of these rows. Raises MtlError where that is no number."""
    if not outputs.isfinite().all():
        raise MtlError(
            f"{run.folder}: {run.facts[task].name}: the model gives numbers that are not finite; "
            "was it trained too fast? use another checkpoint or --precision fp32"
        )
    decoded = run.model.head(task).decode(outputs)
    probabilities = None if decoded.probabilities is None else decoded.probabilities.numpy()
    return Predicted(decoded.values.numpy(), probabilities, float("nan"))


def _decode(facts: TaskFacts, joined: Predicted) -> list[Prediction]:
    labels, values = facts.labels, joined.values.tolist()
    if labels is None:
        return [Prediction(None, None, float(value)) for value in values]
    if joined.probabilities is None:
        return [Prediction(labels[value], None, None) for value in values]
    found = joined.probabilities.tolist()
    return [
        Prediction(labels[value], dict(zip(labels, row, strict=True)), None)
        for value, row in zip(values, found, strict=True)
    ]


def as_json(row: TextRow, predictions: Mapping[str, Prediction]) -> dict[str, Any]:
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


def cell_names(all_facts: Sequence[TaskFacts], source: FileSource, readings: Sequence[Reading]) -> list[str]:
    """The columns of CSV or TSV, in the order of `as_cells`."""
    found = ["id"] if "id" in source.columns else []
    for facts in (all_facts[index] for index in sorted(index for reading in readings for index in reading.tasks)):
        if facts.labels is None:
            found.append(f"{facts.name}.score")
        else:
            found += [f"{facts.name}.label", *(f"{facts.name}.probability.{label}" for label in facts.labels)]
    return found


def as_cells(row: TextRow, predictions: Mapping[str, Prediction]) -> dict[str, str]:
    """One row of CSV or TSV: `id`, `sst.label`, `sst.probability.positive`, `sts.score`."""
    found: dict[str, str] = {"id": row.values["id"]} if "id" in row.values else {}
    for task, one in predictions.items():
        if one.score is not None:
            found[f"{task}.score"] = f"{one.score:.6f}"
        else:
            found[f"{task}.label"] = one.label or ""
            found |= {f"{task}.probability.{label}": f"{p:.6f}" for label, p in (one.probabilities or {}).items()}
    return found
