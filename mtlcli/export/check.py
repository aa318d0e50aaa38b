"""Comparison of an exported graph with the model that it was made from, on real rows."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mtlcli.data.batches import collate
from mtlcli.data.splits import Split
from mtlcli.data.task_sources import find_source
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.data.tokens import TokenizedSplit, tokenize_split
from mtlcli.errors import MtlError
from mtlcli.evaluation.evaluate import EvaluationRows, read_rows
from mtlcli.export.graph import LOGITS, OUTPUT_NAMES, Graph
from mtlcli.inference.predictor import RunInfo
from mtlcli.model.predict import predict_rows
from mtlcli.runs.saved_model import SavedRun
from mtlcli.tasks.targets import Arrays, Ragged, Target, concat

TOLERANCE = 1e-4
"""Largest difference of a probability, of a score as a share of its range, and of logits as a share of the largest one above 1."""
ROWS = 200
BATCHES = (1, 7, 32)
"""Rows of a batch, in turn, over all rows."""

Run = Callable[[Sequence[str], Mapping[str, np.ndarray]], list[np.ndarray]]
"""(names of outputs, inputs by name) -> the outputs, as `onnxruntime.InferenceSession.run` computes them."""


@dataclass(frozen=True)
class Checked:
    """Hold how a graph was compared: rows of a split, and the largest difference in the unit of TOLERANCE."""

    split: str
    rows: int
    difference: float

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "split": self.split, "rows": self.rows, "batch_sizes": list(BATCHES), "largest_difference": self.difference,
            "tolerance": TOLERANCE,
        }  # fmt: skip


def rows_of_tasks(outline: RunInfo, names: Sequence[str], data: str | None) -> dict[str, EvaluationRows]:
    """Return labeled rows of tasks: those of dev, or of train where a task has no dev rows.

    Args:
        outline: the run.
        names: the tasks.
        data: folder with the files that the tasks expect, in place of the run's own.

    Raises:
        MtlError: rows cannot be read.
    """
    by_task = {}
    for name in names:
        config = outline.config(outline.task(name))
        section = config.tasks[name]
        task = section.make(name)
        # Files that the configuration names would otherwise take precedence over those of the folder.
        files = section if data is None else section.without_files()
        has_dev = any(
            find_source(files, task, split, data=data or config.data, sample=config.sample) is not None
            for split in section.splits_of("dev")
        )
        splits = ["dev" if has_dev else "train"]
        by_task[name] = read_rows(outline, [(name, [])], data, splits, (), "fp32")[0][0]
    return by_task


def some_rows(split: Split, count: int) -> Split:
    """Return rows at equal distances, all if there are no more than `count`."""
    if len(split) <= count:
        return split
    # Spread over the whole file, which can be sorted by label.
    rows = np.linspace(0, len(split) - 1, count).round().astype(np.int64)
    return replace(
        split, ordinals=split.ordinals[rows], lines=split.lines[rows], gold=split.gold.take(rows), hashes=split.hashes[rows],
        groups=None, weights=None if split.weights is None else split.weights[rows],
    )  # fmt: skip


def tokenized(saved: SavedRun, split: Split) -> TokenizedSplit:
    """Return the rows of a split as the run tokenizes them, without labels."""
    tokenizer = Tokenizer(saved.encoder.tokenizer, saved.config.encoder.max_length)
    return replace(tokenize_split(split, tokenizer, None), target=None, gold=None)


def check_graph(graph: Graph, run: Run, task: int, split: Split, tokens: TokenizedSplit) -> Checked:
    """Compare a graph with its model, on all rows in batches of every size.

    Args:
        graph: the graph.
        run: runs the exported graph.
        task: index of the task.
        split: rows of the task.
        tokens: their tokens.

    Raises:
        MtlError: an output differs by more than TOLERANCE, or a decision that is not close; names the row.
    """
    expected = reference(graph, task, tokens)
    largest = 0.0
    for size in BATCHES:
        outputs = run_rows(graph, run, task, tokens, size)
        largest = max(largest, _compare(graph, task, split, expected, outputs, size))
    return Checked(split.name, len(split), largest)


def reference(graph: Graph, task: int, tokens: TokenizedSplit) -> Arrays:
    """Return what the model gives for rows: predictions, or for a graph without decoding what its head computes."""
    if graph.decoded:
        return predict_rows(graph.model, {task: tokens}, torch.device("cpu"), nullcontext())[task].rows
    parts = []
    with torch.inference_mode():
        # The batches of the graph have other sizes, and so other padding, which must not change its outputs.
        for rows in _chunks(len(tokens), max(BATCHES)):
            batch = collate(tokens, task, rows)
            logits = graph.model.head(task).predicted(graph.model(task, batch)).float().numpy()
            parts.append(Ragged({LOGITS: logits}, None if batch.items is None else np.asarray(batch.items.starts)))
    # Two spans of a row have one output, so the outputs are those of rows, not of items.
    if graph.encodings == ("marked",):
        return Ragged({LOGITS: np.concatenate([part[LOGITS] for part in parts])})
    return concat(parts)


def run_rows(graph: Graph, run: Run, task: int, tokens: TokenizedSplit, size: int) -> Arrays:
    """Return the outputs of an exported graph for all rows, in batches of `size`."""
    prefix = graph.prefix(task)
    names = [name for name in graph.outputs if name.startswith(prefix)]
    parts = []
    for rows in _chunks(len(tokens), size):
        batch = collate(tokens, task, rows)
        outputs = dict(zip(names, run(names, graph.feed(batch)), strict=True))
        parts.append(graph.predictions(task, outputs, batch))
    return concat(parts)


def _chunks(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _compare(graph: Graph, task: int, split: Split, expected: Arrays, found: Arrays, size: int) -> float:
    """Return the largest difference of numbers. Raise MtlError where one is too large or a decision differs."""
    target = graph.model.head(task).facts.task.target
    largest = 0.0
    for name in graph.fields(task):
        want, got = expected[name], found[name]
        if want.shape != got.shape:
            raise MtlError(f"{graph.model.names[task]}: {name} has the shape {got.shape}; PyTorch gives {want.shape}")
        if not np.issubdtype(want.dtype, np.floating):
            differs = want != got
            if differs.any():
                # Twice the tolerance, because both values that a decision compares can be off by it.
                differs &= ~target.is_close(expected, 2 * TOLERANCE)
            if differs.any():
                raise _different(graph, task, split, expected, name, int(np.argwhere(differs)[0, 0]), want, got, size)
            continue
        # The logits of missing choices are -inf, and the difference of two infinities is NaN.
        with np.errstate(invalid="ignore"):
            differences = np.abs(want.astype(np.float64) - got) / _scale(target, name, want)
        differences[want == got] = 0.0  # infinities, too
        # Negated, so that NaN counts as too large.
        if not (differences <= TOLERANCE).all():
            worst = int(np.argwhere(~(differences <= TOLERANCE))[0, 0])
            raise _different(graph, task, split, expected, name, worst, want, got, size)
        largest = max(largest, float(differences.max(initial=0.0)))
    return largest


def _scale(target: Target, name: str, values: np.ndarray) -> float:
    if target.bounds is not None and name == "value":
        return (target.bounds[1] - target.bounds[0]) or 1.0
    if name == LOGITS:
        finite = np.abs(values[np.isfinite(values)])
        return max(1.0, float(finite.max(initial=0.0)))
    return 1.0


def _different(
    graph: Graph, task: int, split: Split, expected: Arrays, name: str, item: int, want: np.ndarray, got: np.ndarray, size: int
) -> MtlError:  # fmt: skip
    # Items are numbered through all rows, so the row is the last one that starts at or before the item.
    row = item if expected.starts is None else int(np.searchsorted(expected.starts, item, side="right")) - 1
    return MtlError(
        f"{graph.model.names[task]}: the exported graph differs from PyTorch at {split.place(row)} in batches of {size}: "
        f"{OUTPUT_NAMES.get(name, name)} is "
        f"{np.array2string(got[item], precision=6, threshold=8)}, in PyTorch {np.array2string(want[item], precision=6, threshold=8)}; "
        "nothing was written"
    )
