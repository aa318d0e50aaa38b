"""From texts in a file or a pipe to predictions, in the input's order and number, in constant memory.

Rows are read in windows. The rows of a window are tokenized together and run longest first in batches of limited size, which
need little padding; then they are put back in order. Tasks that encode the same texts in the same way share one pass through the
encoder.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mtlcli.data.batches import by_length, collate
from mtlcli.data.encodings import BadText, RowEncoding, RowTexts, TooLong, recorded_encoding
from mtlcli.data.readers import BadRows, FileSource, TextRow, iterate
from mtlcli.data.splits import values_of
from mtlcli.data.tokenizer import Tokenizer, TokenSequences
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.distributed.launch import Launch
from mtlcli.distributed.world import World
from mtlcli.errors import MtlError, one_of
from mtlcli.inference.predictor import LoadedMember, Predictor
from mtlcli.runs.record import is_auxiliary
from mtlcli.runs.saved_model import SavedRun
from mtlcli.tasks.targets import Arrays, Target, concat

WINDOW = 4096
"""Rows read at a time, after the first windows, which are smaller."""
CHARACTERS = 1 << 19
"""Characters after which a window is full: tokenization needs some hundred bytes for each."""
BATCH_TOKENS = {"cpu": 1024}
"""Largest batch in tokens, with padding, by device type: just large enough to use the device fully, since small batches pad less."""
BATCH_TOKENS_ELSEWHERE = 8192
PATIENCE = 0.05
"""Seconds that a window waits for more rows of a pipe."""
CHARACTERS_PER_TOKEN = 64
"""Longer texts are cut at a space before tokenization, unless fewer tokens than the encoder reads would remain."""


@dataclass(frozen=True)
class Reading:
    """Columns of a row, their encoding, and the tasks (indices) that read them like this."""

    columns: tuple[str, ...]
    encoding: RowEncoding
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class _Pass:
    """One run's pass over the rows. The tasks of `reading` are the run's indices; `ours` are the predictor's indices of them."""

    run: SavedRun
    tokenizer: Tokenizer
    reading: Reading
    ours: tuple[int, ...]


@dataclass
class Tally:
    """Counts of what was predicted: rows with a text that was cut at `max_length` tokens, and with an empty text."""

    truncated: int = 0
    blank: int = 0
    max_length: int = 0


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of one task for one row. Two predictions are equal if they say the same.

    Attributes:
        target: what the task predicts.
        rows: predictions of the window that the row was in.
        row: number of the row in the window.
        texts: texts of the row.
    """

    target: Target
    rows: Arrays
    row: int
    texts: RowTexts

    @property
    def label(self) -> str | None:
        """Name of the predicted class; None for a task without classes."""
        return self.as_json(exact=True).get("label")

    @property
    def labels(self) -> list[str] | None:
        """Names of the predicted labels of a task with any number of them; None for other tasks."""
        return self.as_json(exact=True).get("labels")

    @property
    def probabilities(self) -> dict[str, float] | None:
        """Probability of each class or label by name; None where there are none, or where a row has several predictions."""
        if "probabilities" not in self.rows or self.rows.starts is not None:
            return None
        return dict(zip(self.target.labels or (), self.rows["probabilities"][self.row].tolist(), strict=True))

    @property
    def score(self) -> float | None:
        """Predicted score; None for a task without scores."""
        return self.as_json(exact=True).get("score")

    def __eq__(self, other: object) -> bool:
        # The arrays belong to a whole window, so only the values of this row are compared.
        return isinstance(other, Prediction) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        values = self.as_json(exact=True)
        if self.probabilities is not None:
            values["probabilities"] = self.probabilities
        return f"Prediction({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    def as_json(self, *, exact: bool = False) -> dict[str, Any]:
        """Return JSON values, see `Target.as_json`."""
        return self.target.as_json(self.rows, self.row, self.texts, exact=exact)

    def as_cells(self) -> dict[str, str]:
        """Return cells of a table, see `Target.as_cells`."""
        return self.target.as_cells(self.rows, self.row, self.texts)


def find_readings(
    record: Mapping[str, Any],
    source: FileSource,
    wanted: Sequence[str] = (),
    columns: Sequence[str] = (),
    first: str = "",
) -> list[Reading]:
    """Find the columns that each task of a run reads.

    Args:
        record: run.json of the run.
        wanted: names of tasks; empty: every task whose columns exist, auxiliary ones only if there is no other.
        columns: by name or number, in place of those of training.
        first: first line of plain text, which has one text a line, or the two of a pair with a tab between them; without
            `wanted`, it decides which tasks can read the text.

    Raises:
        MtlError: the columns of a wanted task are missing, or those of all tasks.
    """
    plain = source.format.name == "text"
    if columns and plain:
        raise MtlError(f"--text: {source.name} is read as plain text, which has no columns; see --input-format")
    tasks_by_reading: dict[tuple[tuple[str, ...], RowEncoding], list[int]] = {}
    missing = []
    for index, (name, task) in enumerate(record["tasks"].items()):
        if wanted and name not in wanted:
            continue
        encoding = recorded_encoding(task)
        texts = ("text",) * len(task["text"]) if plain else tuple(columns or task["text"])
        if plain and len(texts) > 2:
            missing.append(f"{name} reads {one_of(task['text'])}, which a line of plain text cannot hold")
        elif len(texts) != len(task["text"]):
            missing.append(f"{name} reads {len(task['text'])} of them, --text names {len(texts)}")
        elif (keys := _columns(source, texts, encoding, search=bool(wanted or columns))) is None:
            missing.append(f"{name} needs {' and '.join(texts)}")
        else:
            tasks_by_reading.setdefault((keys, encoding), []).append(index)
    if missing and (wanted or not tasks_by_reading):
        instead = "" if columns or plain else "; say which to read with --text NAME, or its number from 0"
        raise MtlError(f"{source.name}: has the columns {one_of(source.columns)}, but {'; '.join(missing)}{instead}")
    readings = [Reading(keys, encoding, tuple(tasks)) for (keys, encoding), tasks in tasks_by_reading.items()]
    if plain and not wanted:
        # If none fits, all stay: a line without a tab is then a bad row of a pair, a tab in a single text white space.
        fitting = [reading for reading in readings if (len(reading.columns) == 2) == ("\t" in first)]
        readings = fitting or readings
    return readings if wanted else primary_readings(readings, record)


def primary_readings(readings: Sequence[Reading], record: Mapping[str, Any]) -> list[Reading]:
    """Return the readings without auxiliary tasks, or all of them if there are no other tasks."""
    auxiliary = [is_auxiliary(task) for task in record["tasks"].values()]
    counted = [
        replace(reading, tasks=tuple(task for task in reading.tasks if not auxiliary[task])) for reading in readings
    ]
    return [reading for reading in counted if reading.tasks] or list(readings)


def _columns(
    source: FileSource, texts: tuple[str, ...], encoding: RowEncoding, *, search: bool
) -> tuple[str, ...] | None:
    """Return the keys of the rows' values, None if a column is missing.

    With `search`, a key that the first object of JSONL lacks is searched for in further objects.
    """
    # A search can read the whole file, so it is made only for tasks or columns that are named.
    if source.format.name == "text" or (not search and not set(texts) <= set(source.columns)):
        return texts if source.format.name == "text" else None
    try:
        return tuple(source.column(text, nested=encoding.nested) for text in texts)
    except MtlError:
        return None


def check(source: FileSource, readings: Sequence[Reading]) -> int:
    """Read all rows of a file and return their number.

    Raises:
        MtlError: one line for each row that cannot be predicted.
    """
    bad = BadRows()
    count = sum(1 for _ in _usable(source, readings, bad))
    bad.raise_if_any()
    return count


def predict(
    predictor: Predictor, source: FileSource, readings: Sequence[Reading], *, device: torch.device,
    autocast: AbstractContextManager[object], tokens: int | None = None, window: int = WINDOW,
    ready: Callable[[float], bool] | None = None, tally: Tally | None = None,
    advance: Callable[[float], None] = lambda _: None, world: World | None = None,
) -> Iterator[tuple[TextRow, dict[str, Prediction]]]:  # fmt: skip
    """Yield every row with the predictions of every task in `readings`, in order. Labels in the input are ignored.

    Args:
        tokens: largest batch, with padding. No effect on predictions.
        window: most rows in memory. No effect on predictions.
        ready: returns whether the source, a pipe, has more rows within that many seconds, so that rows do not wait for later
            ones.
        tally: counts cut and empty rows.
        advance: is called after every batch with the rows done, a fraction where a row takes several passes.
        world: processes that read the same rows and predict them together; each yields all of them.

    Raises:
        MtlError: a row cannot be read; after the rows before it.
    """
    rows = _until_bad(source, readings)
    yield from predict_rows(
        predictor, rows, readings, lambda row, reading: _texts(source, row, reading), device=device, autocast=autocast,
        tokens=tokens, window=window, ready=ready, tally=tally, advance=advance, world=world,
    )  # fmt: skip


def predict_rows(
    predictor: Predictor, rows: Iterator[TextRow], readings: Sequence[Reading], texts_of: Callable[[TextRow, Reading], RowTexts],
    *, device: torch.device, autocast: AbstractContextManager[object], tokens: int | None = None, batch_rows: int | None = None,
    window: int = WINDOW, ready: Callable[[float], bool] | None = None, tally: Tally | None = None,
    advance: Callable[[float], None] = lambda _: None, world: World | None = None,
) -> Iterator[tuple[TextRow, dict[str, Prediction]]]:  # fmt: skip
    """Yield every row with its predictions, in order.

    `texts_of` returns the one or two texts of a row for a reading; `batch_rows` limits the rows of a batch. The other arguments
    are those of `predict`.

    Raises:
        MtlError: after the rows before it, for a row that cannot be read.
    """
    tally, together = tally or Tally(), world or World(Launch())
    passes = _passes(predictor, readings)
    # Runs of an ensemble can differ in it.
    tally.max_length = min((run_pass.tokenizer.max_length for run_pass in passes), default=0)
    reading_of = {index: reading for reading in readings for index in reading.tasks}
    limit = tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS_ELSEWHERE)

    def predict_window(chunk: list[TextRow]) -> _Window | MtlError:
        try:
            return _predict_window(
                passes, chunk, texts_of, device, autocast, limit, batch_rows or limit // 8,
                lambda rows: advance(rows / len(passes)),
            )  # fmt: skip
        except MtlError as error:
            # Returned and not raised, because the other processes wait for this one in `gather`.
            return error

    # Each process predicts one window of a round, and all receive all.
    for chunks in _rounds(_windows(rows, window, ready), together.size):
        # A last round can have fewer windows than processes, but all of them take part in `gather`.
        part = predict_window(chunks[together.rank]) if together.rank < len(chunks) else None
        for number, (chunk, done) in enumerate(zip(chunks, together.gather(part), strict=False)):
            if isinstance(done, MtlError) or done is None:
                raise done or RuntimeError("a process has no predictions of its window")
            # Rows of this process's own window were counted batch by batch.
            if number != together.rank:
                advance(len(chunk))
            tally.truncated += done.cut
            tally.blank += done.blank
            averages = {
                task: predictor.average(
                    task, [done.votes[task, place] for place in _places_of(passes, predictor.members[task], task)]
                )
                for task in sorted(reading_of)
            }
            for at, row in enumerate(chunk):
                yield (
                    row,
                    {
                        predictor.facts[task].name: Prediction(
                            predictor.facts[task].target, average, at, texts_of(row, reading_of[task])
                        )
                        for task, average in averages.items()
                    },
                )


@dataclass(frozen=True)
class _Window:
    """Predictions of the rows of a window by task (of the predictor) and number of the run's pass, and counts for the tally."""

    votes: dict[tuple[int, int], Arrays]
    cut: int
    blank: int


def _predict_window(
    passes: Sequence[_Pass], chunk: list[TextRow], texts_of: Callable[[TextRow, Reading], RowTexts], device: torch.device,
    autocast: AbstractContextManager[object], limit: int, batch_rows: int, advance: Callable[[int], None],
) -> _Window:  # fmt: skip
    """Tokenize and predict the rows of a window with every run.

    Raises:
        MtlError: a row is too long, or an output is not finite.
    """
    cut, blank = np.zeros(len(chunk), dtype=bool), np.zeros(len(chunk), dtype=bool)
    votes: dict[tuple[int, int], Arrays] = {}
    for place, run_pass in enumerate(passes):
        run, reading = run_pass.run, run_pass.reading
        texts = [texts_of(row, reading) for row in chunk]
        blank |= np.array([bool(reading.encoding.empty(row_texts)) for row_texts in texts])
        try:
            tokenized = _tokenized(reading, texts, run_pass.tokenizer)
        except TooLong as error:
            raise MtlError(f"the row at line {chunk[error.row].line}: {error}") from None
        for side in tokenized.sides:
            cut |= side.cut if side.cut is not None else False
        predicted = _predictions(run, reading, tokenized, device, autocast, limit, batch_rows, advance)
        for in_run, ours in zip(reading.tasks, run_pass.ours, strict=True):
            votes[ours, place] = predicted[in_run]
    return _Window(votes, int(cut.sum()), int(blank.sum()))


def _places_of(passes: Sequence[_Pass], members: Sequence[LoadedMember], task: int) -> list[int]:
    """Return the number of the pass in which each member predicts a task."""
    of_runs = {id(run_pass.run): place for place, run_pass in enumerate(passes) if task in run_pass.ours}
    return [of_runs[id(member.run)] for member in members]


def _rounds(windows: Iterator[list[TextRow]], size: int) -> Iterator[list[list[TextRow]]]:
    """Yield `size` windows at a time; an MtlError is raised after the windows before it."""
    chunks: list[list[TextRow]] = []
    failure: MtlError | None = None
    try:
        for chunk in windows:
            chunks.append(chunk)
            if len(chunks) == size:
                yield chunks
                chunks = []
    except MtlError as error:
        failure = error
    if chunks:
        yield chunks
    if failure is not None:
        raise failure


def _passes(predictor: Predictor, readings: Sequence[Reading]) -> list[_Pass]:
    """Return the passes for these readings: each run encodes a row as it was trained to."""
    grouped: dict[tuple[int, tuple[str, ...], RowEncoding], list[tuple[int, int]]] = {}
    runs = {}
    for reading in readings:
        for ours in reading.tasks:
            for member in predictor.members[ours]:
                runs[id(member.run)] = member.run
                # Words are cut as the first run cuts them, so that all runs predict the same items.
                encoding = reading.encoding if reading.encoding.nested else member.encoding
                grouped.setdefault((id(member.run), reading.columns, encoding), []).append((member.task, ours))
    tokenizers = {key: Tokenizer(run.encoder.tokenizer, run.config.encoder.max_length) for key, run in runs.items()}
    return [
        _Pass(runs[key], tokenizers[key], Reading(columns, encoding, tuple(i for i, _ in tasks)), tuple(i for _, i in tasks))
        for (key, columns, encoding), tasks in grouped.items()
    ]  # fmt: skip


def _usable(source: FileSource, readings: Sequence[Reading], bad: BadRows) -> Iterator[TextRow]:
    """Yield the rows that can be predicted, and report the remaining ones to `bad`."""
    pairs = source.format.name == "text" and any(len(reading.columns) == 2 for reading in readings)
    for row in iterate(source, bad):
        # A blank line is a pair of empty texts: the output has a row for every line.
        if pairs and "\t" not in row.values["text"] and row.values["text"].strip():
            bad.report(source.name, row.line, "expected two texts with a tab between them, found one")
            continue
        try:
            for reading in readings:
                if reading.encoding.nested:  # every text can be encoded, but not every list
                    _texts(source, row, reading)
        except BadText as error:
            bad.report(source.name, row.line, f"{reading.columns[error.column]}{error}")
            continue
        yield row


def _until_bad(source: FileSource, readings: Sequence[Reading]) -> Iterator[TextRow]:
    """Yield the rows before the first bad one, then raise MtlError if there is one."""
    bad = BadRows()
    for row in _usable(source, readings, bad):
        # Bad rows yield nothing, so they are noticed with the next good row or at the end.
        bad.raise_if_any()
        yield row
    bad.raise_if_any()


def _windows(rows: Iterator[TextRow], most: int, ready: Callable[[float], bool] | None) -> Iterator[list[TextRow]]:
    """Yield the rows in lists, short ones first, so that the first predictions do not wait for thousands of rows.

    An MtlError of `rows` is raised after the rows before it.
    """
    # An error is kept until the rows before it are predicted.
    size, failure, more = min(most, 64), None, True
    while more:
        chunk: list[TextRow] = []
        characters, start = 0, time.monotonic()
        more = False
        try:
            for row in rows:
                # The wait counts from the first row of a window; the time until that row arrived does not matter.
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


def _texts(source: FileSource, row: TextRow, reading: Reading) -> RowTexts:
    if source.format.name == "text" and len(reading.columns) == 2:
        first, _, second = row.values["text"].partition("\t")
        return first, second
    return reading.encoding.texts(values_of(row, reading.columns, source, reading.encoding.nested))


def text_sequences(tokenizer: Tokenizer, texts: list[tuple[str, ...]]) -> TokenSequences:
    """Tokenize texts; of a very long text only as much as the encoder reads."""
    limit = CHARACTERS_PER_TOKEN * tokenizer.max_length
    if all(len(part) <= limit for text in texts for part in text):
        return tokenizer.sequences(texts)
    short = [tuple(_cut(part, limit) for part in text) for text in texts]
    sequences = tokenizer.sequences(short)
    # Cut texts of long words or of many spaces can have fewer tokens than fit, and are then read whole.
    too_short = [
        row
        for row, length in enumerate(sequences.lengths())
        if length < tokenizer.max_length and short[row] != texts[row]
    ]
    if not too_short:
        return sequences
    for row in too_short:
        short[row] = texts[row]
    return tokenizer.sequences(short)


def _cut(text: str, limit: int) -> str:
    # At a space, because a part of a word has other tokens than the word.
    return text if len(text) <= limit else text[:limit].rpartition(" ")[0] or text[:limit]


def _tokenized(reading: Reading, texts: list[RowTexts], tokenizer: Tokenizer) -> TokenizedSplit:
    """Tokenize the rows as their encoding says."""
    encoding = reading.encoding
    if not encoding.truncates:
        return TokenizedSplit((encoding.tokenize(texts, tokenizer),), tokenizer.pad)
    rows = [tuple(map(str, row)) for row in texts]
    parts = [[(text,) for text in side] for side in zip(*rows, strict=True)] if encoding.sides == 2 else [rows]
    return TokenizedSplit(tuple(text_sequences(tokenizer, list(part)) for part in parts), tokenizer.pad)


def _predictions(
    run: SavedRun, reading: Reading, tokenized: TokenizedSplit, device: torch.device,
    autocast: AbstractContextManager[object], tokens: int, batch_rows: int, advance: Callable[[int], None],
) -> dict[int, Arrays]:  # fmt: skip
    """Return the predictions of each task of a reading, from one pass of the encoder where they can share it.

    Raises:
        MtlError: an output is not finite.
    """
    parts: dict[int, list[Arrays]] = {task: [] for task in reading.tasks}
    orders: list[np.ndarray] = []
    model, groups = run.model, run.model.pass_groups(reading.tasks)
    with torch.inference_mode(), autocast:
        for rows in by_length(tokenized.lengths(), tokens=tokens, rows=batch_rows):
            batch = collate(tokenized, reading.tasks[0], rows).to(device)
            orders.append(rows)
            for group in groups:
                states = model.states_of(group, batch)
                for task in group:
                    output = model.output(task, batch, model.features(task, batch, states))
                    # NaN would otherwise be decoded as a class like any other.
                    if not output.isfinite().all():
                        raise MtlError(
                            f"{run.folder}: {run.facts[task].name}: the model's output is NaN or infinite; training may have "
                            "diverged. Use another checkpoint or --precision fp32"
                        )
                    parts[task].append(model.decode(task, output, batch).numpy())
            advance(len(rows))
    # The argsort of a permutation is its inverse.
    back = np.argsort(np.concatenate(orders))
    return {task: concat(of_task).take(back) for task, of_task in parts.items()}
