"""Small runs with a common start, for merging."""

import functools
from pathlib import Path
from typing import Any

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.runs.record import inherited_sections
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from trained import TASKS, trained


def continued(folder: Path, *tasks: str, start: Path, **sections: Any) -> Path:
    """A run of a few steps on some tasks, from another run's encoder."""
    files = trained().parent / "files"
    values = {
        "tasks": {
            name: {"kind": TASKS[name]} | {split: str(files / f"{name}-{split}.tsv") for split in ("train", "dev")}
            for name in tasks
        },
        "init": str(start),
        "training": {"steps": 5, "steps_per_epoch": 5, "batch_size": 8, "device": "cpu"},
    }
    config = resolve([Layer(values | sections)], None, inherited_sections)
    for _ in train(set_up(config), folder, command="mtl train"):
        pass
    return folder


@functools.cache
def pair() -> tuple[Path, Path]:
    """Two runs that started from one: the first has `tone` and `stars`, the second `tone` and `near`."""
    place = trained().parent
    first = continued(place / "first", "tone", "stars", start=trained())
    return first, continued(place / "second", "tone", "near", start=trained())
