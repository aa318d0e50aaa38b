"""Small files of made-up rows and runs of a few steps on them."""

import random
from pathlib import Path
from typing import Any

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.schedulers.base import Scheduler
from mtlcli.training.plan import visits_by_stage

WORDS = "the a cook waiter cat dog sees likes finds loses big small red green house tree quickly slowly".split()


def write_files(folder: Path, rows: int = 40) -> Path:
    """train and dev of three tasks: `tone` (two classes), `same` (pairs, two classes), `near` (pairs, a score)."""
    chance = random.Random(7)

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(3, 9)))

    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", rows), ("dev", rows // 2)):
        tone = [f"{text()}\t{chance.choice(['good', 'bad'])}" for _ in range(count)]
        (folder / f"tone-{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(tone) + "\n")
        same = [f"{text()}\t{text()}\t{chance.randint(0, 1)}" for _ in range(count + 10)]
        (folder / f"same-{split}.tsv").write_text("sentence1\tsentence2\tlabel\n" + "\n".join(same) + "\n")
        near = [f"{text()}\t{text()}\t{chance.random() * 5:.2f}" for _ in range(count - 6)]
        (folder / f"near-{split}.tsv").write_text("sentence1\tsentence2\tscore\n" + "\n".join(near) + "\n")
    return folder


def count_visits(scheduler: Scheduler, tasks: int, steps: int, steps_per_epoch: int) -> list[int]:
    """Micro-batches of each task over a run."""
    return [sum(each) for each in zip(*visits_by_stage(scheduler, tasks, steps, steps_per_epoch).values(), strict=True)]


def small_values(folder: Path) -> dict[str, Any]:
    """Three tasks on these files and a very small encoder, 12 steps."""

    def task(name: str, kind: str) -> dict[str, Any]:
        return {"kind": kind, "train": str(folder / f"{name}-train.tsv"), "dev": str(folder / f"{name}-dev.tsv")}

    return {
        "tasks": {
            "tone": task("tone", "classification"),
            "same": task("same", "pair-classification"),
            "near": task("near", "pair-regression"),
        },
        "encoder": {
            "name": "tiny",
            "dim": 16,
            "layers": 2,
            "attention_heads": 2,
            "intermediate": 32,
            "vocabulary": 120,
            "max_length": 32,
        },
        "training": {"steps": 12, "steps_per_epoch": 4, "batch_size": 8, "device": "cpu"},
    }


def small_config(folder: Path, **sections: Any) -> Config:
    """The small run with some sections changed: `small_config(folder, balancer="uncertainty")`."""
    values = small_values(folder)
    for key, value in sections.items():
        values[key] = (
            {**values[key], **value} if isinstance(values.get(key), dict) and isinstance(value, dict) else value
        )
    return resolve([Layer(values)])
