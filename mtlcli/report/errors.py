"""The worst predictions of a run with their texts, which are read again from the run's data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli import registry
from mtlcli.data.splits import Split, load_task
from mtlcli.report.predictions import worst
from mtlcli.report.run_files import RunFiles
from mtlcli.runs.record import read_record, stored_config
from mtlcli.tasks.base import Task


@dataclass(frozen=True)
class WorstRow:
    """A dev row that was predicted badly: its line, target and prediction in words, and its texts."""

    line: int
    target: str
    predicted: str
    texts: tuple[str, ...]


def worst_rows(folder: Path, count: int) -> dict[str, list[WorstRow]]:
    """Return the worst rows of each task with predictions on dev, the worst one first.

    Raises:
        MtlError: the run's data cannot be read.
    """
    config = stored_config(read_record(folder))
    rows: dict[str, list[WorstRow]] = {}
    for title, predictions in RunFiles(folder).predictions.items():
        name, _, part = title.partition(" ")
        section = config.tasks[name]
        task: Task = registry.load("tasks", section.name, f"tasks.{name}")(name, **section.options)
        loaded = load_task(
            name, section, task, data=config.data, sample=config.sample, seed=config.training.seed
        )  # fmt: skip
        selected = worst(predictions, count)
        split = loaded.splits.get(f"dev.{part}" if part else "dev")
        # By digest rather than by line, because the file may have changed since the evaluation.
        texts = {} if split is None else _texts(split, {row["digest"] for row in selected})
        rows[title] = [
            WorstRow(
                row["line"], *_in_words(row), texts.get(row["digest"], ("(the text is not in the data any more)",))
            )
            for row in selected
        ]
    return rows


def _texts(split: Split, digests: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the texts with these digests."""
    hashes = (f"{int(value):016x}" for value in split.hashes)
    rows = zip(hashes, split.texts(), strict=True)
    return {digest: tuple(map(str, texts)) for digest, texts in rows if digest in digests}


def _in_words(row: Mapping[str, Any]) -> tuple[str, str]:
    if "score" in row:
        return f"{row['target']:g}", f"{row['score']:.3f}"
    probability = (row.get("probabilities") or {}).get(row["label"])
    share = "" if probability is None else f" ({100 * probability:.0f} %)"
    return str(row["target"] if row["target"] is not None else "(unseen label)"), f"{row['label']}{share}"
