"""What a finished run predicts for the training rows of a task: the teacher of a distillation."""

import hashlib
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import torch

from mtlcli.data.splits import LoadedTask
from mtlcli.errors import MtlError, one_of
from mtlcli.facts import TaskFacts
from mtlcli.files import put, scratch_folder
from mtlcli.inference.predictor import RunInfo, in_order, open_run
from mtlcli.plugin import TeacherPredictions


def teacher_predictions(
    folder: str, task: LoadedTask, facts: TaskFacts, device: torch.device, autocast: AbstractContextManager[object],
    cache: Path | None, tell: Callable[[str], None] = lambda _: None,
) -> TeacherPredictions:  # fmt: skip
    """Predictions of the run or ensemble in `folder` for the training rows of `task`, in their order; classes in the order of
    `facts`, and every class with a probability.

    The teacher reads the texts with its own tokenizer and encoding. What it said is kept in the cache folder under the
    content of the teacher's files and of the rows; `tell` hears when it has to be asked. Raises MtlError where it has no such
    task, or means something else by it.
    """
    outline, split = open_run(Path(folder)), task.splits["train"]
    index = outline.task(facts.name)
    _must_fit(outline, index, facts, texts=len(split.columns.texts))
    with autocast:
        precision = "autocast" if torch.is_autocast_enabled(device.type) else "fp32"
    parts = (outline.fingerprint(index), facts.name, repr(facts.labels), split.content, precision, "v1")
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
    place = None if cache is None else cache / f"taught-{key}.npz"
    found = None if place is None else _load(place)
    if found is not None:
        return found
    tell(f"{folder} ({outline.title}): predicting the {len(split)} training rows of {facts.name}, to teach them")
    predictor, warnings = outline.load(device, {index})
    for warning in warnings:
        tell(f"warning: {warning}")
    predicted = in_order(
        predictor.on_split(index, split, device, autocast), predictor.facts[index].labels, facts.labels
    )
    probabilities = predicted.probabilities
    if facts.labels is not None and probabilities is None:
        probabilities = np.eye(len(facts.labels))[predicted.values]
    if not np.isfinite(predicted.values if probabilities is None else probabilities).all():
        raise MtlError(f"{folder}: {facts.name}: the teacher gives numbers that are not finite; use another run")
    taught = TeacherPredictions(predicted.values, probabilities)
    if place is not None:
        _save(taught, place)
    return taught


def _must_fit(outline: RunInfo, index: int, facts: TaskFacts, *, texts: int) -> None:
    theirs = outline.facts[index]
    reads = len(outline.record["tasks"][facts.name]["text"])
    if reads != texts:
        raise MtlError(
            f"{outline.folder}: its task {facts.name} reads {reads} text{'s'[: reads - 1]} a row, the one here {texts}"
        )
    if {*(theirs.labels or ())} != {*(facts.labels or ())}:
        raise MtlError(
            f"{outline.folder}: its task {facts.name} predicts {_answer(theirs)}, the one here {_answer(facts)}; a teacher has "
            "to know the same labels"
        )


def _answer(facts: TaskFacts) -> str:
    return "a score" if facts.labels is None else f"the labels {one_of(facts.labels)}"


def _load(place: Path) -> TeacherPredictions | None:
    """What was kept, None where it is absent or not whole."""
    try:
        with place.open("rb") as file, np.load(file) as arrays:
            values, probabilities = arrays["values"], arrays["probabilities"]
            return TeacherPredictions(values, probabilities if probabilities.ndim == 2 else None)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _save(taught: TeacherPredictions, place: Path) -> None:
    """Keeps it whole or not at all; a folder that cannot be written is done without."""
    probabilities = np.zeros(0) if taught.probabilities is None else taught.probabilities
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(place.parent) as scratch:
            np.savez(scratch / "taught.npz", values=taught.values, probabilities=probabilities)
            put(scratch / "taught.npz", place)
