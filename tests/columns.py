"""A made-up file with several label columns, and runs that read them as several tasks."""

import random
from pathlib import Path

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from small import WORDS, small_values


def write_table(folder: Path, *, rows: int = 40, missing: float = 0.0) -> Path:
    """Texts with a class, a score and a rare class; with `missing`, that share of the scores is empty."""
    chance = random.Random(5)
    for split, count in (("train", rows), ("dev", rows // 2)):
        lines = ["sentence\ttone\tnear\trare"]
        for number in range(count):
            text = " ".join(chance.choices(WORDS, k=chance.randint(3, 9)))
            near = "" if chance.random() < missing else f"{5 * chance.random():.2f}"
            rare = chance.choice("xy") if number % 5 == 0 else ""
            lines.append(f"{text} {split}\t{chance.choice(['good', 'bad'])}\t{near}\t{rare}")
        (folder / f"table-{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def config_of(folder: Path, *columns: str, scheduler="all-together", training=None, **sections):
    """The configuration of a run on these columns of the table."""
    kinds = {"tone": "classification", "near": "regression", "rare": "classification"}
    files = {"train": str(folder / "table-train.tsv"), "dev": str(folder / "table-dev.tsv"), "text": "sentence"}
    values = {
        **small_values(folder),
        "tasks": {name: {"kind": kinds[name], "label": name, **files} for name in columns or ("tone", "near")},
        "scheduler": scheduler,
        **sections,
    }
    values["training"] |= training or {}
    return resolve([Layer(values)])
