"""Predict the training rows of a task with a finished run, the teacher of a distillation."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlcli.data.splits import LoadedTask
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.files import put, scratch_folder
from mtlcli.inference.predictor import RunInfo, open_run
from mtlcli.tasks.targets import Arrays, Ragged


def teacher_predictions(
    folder: str, task: LoadedTask, facts: TaskFacts, device: torch.device, autocast: AbstractContextManager[object],
    cache: Path | None, tell: Callable[[str], None] = lambda _: None,
) -> Arrays:  # fmt: skip
    """Predict the training rows of `task` with the run or ensemble in `folder`.

    The teacher encodes the texts with its own tokenizer and encoding. Its predictions are cached by the content of the
    teacher's files and of the rows; `tell` is called if they are not in the cache.

    Returns:
        The soft targets of `Target.soft`, classes in the order of `facts`.

    Raises:
        MtlError: the teacher has no task of this name, or its task reads or predicts something else.
    """
    outline, split = open_run(Path(folder)), task.splits["train"]
    index = outline.task(facts.name)
    _must_fit(outline, index, facts, texts=len(split.columns.texts))
    # Part of the key, because bf16 changes the predictions.
    with autocast:
        precision = "autocast" if torch.is_autocast_enabled(device.type) else "fp32"
    parts = (outline.fingerprint(index), facts.name, json.dumps(facts.target.record()), split.content, precision, "v3")
    # "v2" is the version of the stored arrays.
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
    place = None if cache is None else cache / f"taught-{key}.npz"
    cached = None if place is None else _load(place)
    if cached is not None:
        return cached
    tell(f"{folder} ({outline.title}): predicting the {len(split)} training rows of {facts.name} for distillation")
    predictor, warnings = outline.load(device, {index})
    for warning in warnings:
        tell(f"warning: {warning}")
    predicted = predictor.on_split(index, split, device, autocast)
    taught = facts.target.soft(facts.target.average([predicted], [predictor.facts[index].target]))
    if taught is None:
        raise MtlError(
            f"{folder}: {facts.name}: a task that predicts {facts.target.describe()} does not support distillation"
        )
    if not all(np.isfinite(array).all() for array in taught.fields.values()):
        raise MtlError(f"{folder}: {facts.name}: the teacher's predictions are NaN or infinite; use another run")
    taught = facts.target.where_known(taught, split.gold)
    if place is not None:
        _save(taught, place)
    return taught


def _must_fit(outline: RunInfo, index: int, facts: TaskFacts, *, texts: int) -> None:
    theirs = outline.facts[index]
    reads = len(outline.record["tasks"][facts.name]["text"])
    if reads != texts:
        raise MtlError(
            f"{outline.folder}: its task {facts.name} reads {reads} text{'s'[: reads - 1]} per row, but the task of this run "
            f"reads {texts}; use another teacher"
        )
    if difference := facts.target.agree(theirs.target):
        raise MtlError(
            f"{outline.folder}: its task {facts.name} predicts {difference}; a teacher must predict the same as this run"
        )


def _load(place: Path) -> Arrays | None:
    """Return cached predictions; None if they are missing or damaged."""
    try:
        with place.open("rb") as file, np.load(file) as arrays:
            fields = {name: arrays[name] for name in arrays.files}
        starts = fields.pop("starts", None)
        return Ragged(fields, starts) if fields else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _save(taught: Arrays, place: Path) -> None:
    """Write the predictions to the cache atomically; an unwritable cache folder is ignored."""
    arrays: dict[str, Any] = {**taught.fields, **({} if taught.starts is None else {"starts": taught.starts})}
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(place.parent) as scratch:
            np.savez(scratch / "taught.npz", **arrays)
            put(scratch / "taught.npz", place)
