"""Graphs with weights of 8 bits, measured by how often they decide like the graph with floats."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.errors import MtlError
from mtlcli.evaluation.evaluate import EvaluationRows
from mtlcli.evaluation.measure import measure
from mtlcli.export.check import Run, run_rows, some_rows, tokenized
from mtlcli.export.graph import Graph
from mtlcli.runs.saved_model import SavedRun
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.tasks.targets import Arrays

SUFFIX = ".int8.onnx"
ROWS = 2000
BATCH = 32
LEAST_AGREEMENT = 0.9
CLOSE = 0.05
"""How far two scores that agree are apart at most, as a share of the range."""


@dataclass(frozen=True)
class Int8:
    """Describe a graph of 8 bits: size in bytes, share of rows with the decision of the graph with floats, and metrics of both.

    Metrics are those of the task, on the same rows.
    """

    size: int
    rows: int
    agreement: float
    metrics: Mapping[str, Estimate]
    float_metrics: Mapping[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""

        def plain(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
            return {
                name: {"value": value.value, "low": value.low, "high": value.high} for name, value in metrics.items()
            }

        return {
            "rows": self.rows, "agreement": self.agreement, "metrics": plain(self.metrics),
            "metrics_of_float": plain(self.float_metrics),
        }  # fmt: skip


def quantize(path: Path, *, reduce_range: bool = False) -> Path:
    """Write a graph whose weights have 8 bits, with a scale for each channel, beside the graph with floats.

    Activations are quantized when the graph runs, so no rows are needed. With `reduce_range` weights have 7 bits, for CPUs without
    VNNI, on which sums of larger products overflow.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name(path.name.removesuffix(".onnx") + SUFFIX)
    logging.disable(logging.WARNING)  # advice about a preprocessing that has no effect here
    try:
        quantize_dynamic(path, target, per_channel=True, reduce_range=reduce_range, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
    return target


def measure_int8(
    saved: SavedRun, graph: Graph, task: int, rows: EvaluationRows, of_float: Run, of_int8: Run, size: int
) -> Int8:  # fmt: skip
    """Compare a graph of 8 bits with the one with floats on up to 2,000 rows."""
    split = some_rows(rows.split, ROWS)
    tokens = tokenized(saved, split)
    expected, outputs = (run_rows(graph, run, task, tokens, BATCH) for run in (of_float, of_int8))
    # In the order of the fields `metrics` and `float_metrics`.
    of_both = [measure(rows.metrics, predicted, split.gold, 1000) for predicted in (outputs, expected)]
    return Int8(size, len(split), agreement(graph, task, expected, outputs), *of_both)


def agreement(graph: Graph, task: int, expected: Arrays, found: Arrays) -> float:
    """Return the share of rows (of words for tags) with the same decision, or with scores that are close."""
    target = graph.model.head(task).facts.task.target
    if target.bounds is not None:
        width = (target.bounds[1] - target.bounds[0]) or 1.0
        return float((np.abs(expected["value"] - found["value"]) <= CLOSE * width).mean())
    decisions = [name for name in graph.fields(task) if np.issubdtype(expected[name].dtype, np.integer)]
    same = np.ones(len(expected[decisions[0]]), dtype=bool)
    for name in decisions:
        equal = expected[name] == found[name]
        # A decision can have several values in a row, such as a set of labels.
        same &= equal.reshape(len(equal), -1).all(axis=1)
    # A row with choices agrees if all of its choices do.
    if "chosen" in decisions and expected.starts is not None:
        same = np.logical_and.reduceat(same, expected.starts[:-1])
    return float(same.mean())


def must_agree(name: str, result: Int8, *, force: bool) -> None:
    """Raise MtlError for a graph that decides otherwise too often, unless `force` is set."""
    if result.agreement < LEAST_AGREEMENT and not force:
        raise MtlError(
            f"{name}: with 8 bits only {100 * result.agreement:.1f} % of {result.rows} rows have the decision of the graph with floats; "
            f"expected {100 * LEAST_AGREEMENT:.0f} %, so nothing was written. Leave out --int8, try --reduce-range, or add --force"
        )
