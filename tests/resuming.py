"""Small runs that are stopped and resumed, to be compared with unbroken ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config


def go(
    files: Path, folder: Path, value_of: Callable[[Stepped], Any], stop_after: int | None = None, **sections: Any
) -> list[Any]:
    """Run, or resume, three epochs of four steps, and return a value of every step."""
    found = inspect_folder(folder, resume=True, overwrite=False).checkpoint
    prepared = set_up(
        small_config(files, **sections),
        encoder_from=found.folder / "encoder" if found else None,
        first_step=found.step if found else 0,
    )
    values: list[Any] = []
    for event in train(prepared, folder, resume_from=found, stop=lambda: len(values) == stop_after):
        if isinstance(event, Stepped):
            values.append(value_of(event))  # noqa: PERF401 -- `stop` counts them
    return values


def kept(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the newest checkpoint: model, plugins and optimizer."""
    place, _ = checkpoint.latest(folder / "checkpoints")
    return {
        f"{part}/{key}": value
        for part in ("model", "plugins", "optimizer")
        for key, value in place.tensors(part).items()
    }
