"""A run as a plain encoder, with the changes of its architecture merged in, or as an adapter of the package peft."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from mtlcli.architectures import peft_files
from mtlcli.errors import MtlError
from mtlcli.export.folder import replace_folder
from mtlcli.runs.saved_model import SavedRun, write_encoder


def export_encoder(run: SavedRun, task: int | None, folder: Path, *, overwrite: bool = False) -> None:
    """Write a plain encoder with the features of a task, or of all tasks (None), as a folder for transformers.

    Raises:
        MtlError: the architecture has no such encoder, the folder exists, or it cannot be written.
    """
    with named(run):
        merged = run.model.architecture.merged(task)
    section = run.config.encoder

    def write(place: Path) -> None:
        write_encoder(place, replace(run.encoder, model=merged), section.pooling, section.max_length)

    replace_folder(folder, "modules.json", "an encoder", write, overwrite=overwrite)


def export_peft(run: SavedRun, task: int | None, folder: Path, *, overwrite: bool = False) -> None:
    """Write the changes of a LoRA run for a task, or for all tasks (None), as the package peft reads them.

    Raises:
        MtlError: the run has no LoRA, the folder exists, or it cannot be written.
    """
    with named(run):
        lora = run.model.architecture.to_peft(task)
    config = peft_files.config_of(lora, run.config.encoder.name)

    def write(place: Path) -> None:
        (place / peft_files.CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        save_file(peft_files.tensors_of(lora), place / peft_files.WEIGHTS)

    replace_folder(folder, peft_files.CONFIG, "an adapter", write, overwrite=overwrite)


@contextmanager
def named(run: SavedRun) -> Iterator[None]:
    """Complete the sentences of an architecture with its name."""
    try:
        yield
    except MtlError as error:
        raise MtlError(f"{run.folder}: the architecture {run.config.architecture.name} {error}") from error
