"""The log files of a run: metrics.jsonl and train.log."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from mtlcli.training.engine import Combined
from mtlcli.training.events import Stepped


def log_step(
    log: TextIO, stepped: Stepped, combined: Combined, measures: Mapping[str, float], *, coefficients: bool
) -> dict[str, Any]:
    """Write and return the line of a step: losses, what is added to them, weights, measures of the architecture, and coefficients and
    cosines of the task gradients if they were computed."""
    line: dict[str, Any] = {
        "kind": "step",
        "step": stepped.step,
        "epoch": stepped.epoch,
        "lr": stepped.lr,
        "gradient_norm": stepped.gradient_norm,
    }
    line |= {f"train/{name}/loss": loss for name, loss in stepped.losses.items()}
    added = (combined.totals - combined.losses).tolist()
    line |= {f"train/{name}/added": value for name, value in zip(stepped.losses, added, strict=True) if value}
    line |= {f"architecture/{name}": value for name, value in measures.items()}
    line |= {f"balancer/{name}/weight": weight for name, weight in stepped.weights.items()}
    line |= {
        f"balancer/{name}/objective": value
        for name, value in zip(stepped.losses, combined.objectives.tolist(), strict=True)
    }
    if coefficients:
        line |= {
            f"gradients/{name}/coefficient": c
            for name, c in zip(stepped.losses, combined.coefficients.tolist(), strict=True)
        }
    if combined.gram is not None:
        line |= _cosines(list(stepped.losses), combined.gram)
    if stepped.skipped:
        line["skipped"] = True
    return write_line(log, line)


def _cosines(names: list[str], gram: torch.Tensor) -> dict[str, float]:
    norms = gram.diagonal().sqrt().clamp(min=1e-30)  # a zero gradient has cosine 0, not NaN
    cosine = (gram / torch.outer(norms, norms)).tolist()
    return {
        # A slash, which is in no task's name: "a_b" and "c" would have the key of "a" and "b_c".
        f"gradients/cosine/{names[i]}/{names[j]}": cosine[i][j]
        for i in range(len(names))
        for j in range(i + 1, len(names))
    }


def log_line(path: Path, text: str) -> None:
    """Append a line with the time to train.log."""
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def write_line(log: TextIO, values: Mapping[str, Any]) -> dict[str, Any]:
    """Write and return a line of metrics.jsonl; numbers that are not finite become null, because JSON has no NaN."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
    # Flushed line by line, so that the file can be followed while the run trains.
    log.write(json.dumps(plain) + "\n")
    log.flush()
    return plain
