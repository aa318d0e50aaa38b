"""Small trained runs that the tests of predicting and judging share, and their files. Made on first use, once a session."""

import atexit
import functools
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up

GOOD, BAD = ("fine", "lovely", "superb"), ("poor", "dreary", "awful")
NOUNS = ("lamp", "stool", "ferry", "pie", "violin", "meadow", "button", "ladder")
TASKS = {"tone": "classification", "stars": "regression", "same": "pair-classification", "near": "pair-regression"}


def sentence(chance: random.Random) -> str:
    """Some words of these, with one that says good or bad."""
    words = chance.choices(NOUNS, k=chance.randint(2, 9))
    words[chance.randrange(len(words))] = chance.choice(GOOD + BAD)
    return " ".join(["the", *words])


def write_files(folder: Path, rows: int = 60) -> Path:
    """train, dev and test of four tasks; `tone` and `stars` read one text in the same way."""
    chance = random.Random(11)
    for split, count in (("train", rows), ("dev", rows // 2), ("test", rows // 3)):
        texts = [sentence(chance) for _ in range(count)]
        tone = ["good" if set(GOOD) & set(text.split()) else "bad" for text in texts]
        pairs = [(text, text if chance.random() < 0.5 else sentence(chance)) for text in texts]
        tables = {
            "tone": [("sentence", "label"), *zip(texts, tone, strict=True)],
            "stars": [("sentence", "score"), *((text, str(len(text.split()))) for text in texts)],
            "same": [("sentence1", "sentence2", "label"), *((a, b, str(int(a == b))) for a, b in pairs)],
            "near": [("sentence1", "sentence2", "score"), *((a, b, f"{len(set(a) & set(b)):.1f}") for a, b in pairs)],
        }
        for name, table in tables.items():
            (folder / f"{name}-{split}.tsv").write_text("".join("\t".join(row) + "\n" for row in table))
    return folder


@functools.cache
def trained() -> Path:
    """The folder of the finished run; its files are in `files` beside it. Not to be written in: see `copy_of`."""
    place = Path(tempfile.mkdtemp(prefix="mtl-tests-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (place / "files").mkdir()
    files = write_files(place / "files")
    tasks = {
        name: {"kind": kind} | {split: str(files / f"{name}-{split}.tsv") for split in ("train", "dev", "test")}
        for name, kind in TASKS.items()
    }
    values = {
        "tasks": tasks,
        "encoder": {"name": "tiny", "dim": 32, "layers": 1, "attention_heads": 2, "intermediate": 32, "vocabulary": 120, "max_length": 32},
        "training": {"steps": 6, "steps_per_epoch": 6, "batch_size": 8, "device": "cpu"},
    }  # fmt: skip
    return _train(values, place / "run")


@functools.cache
def other() -> Path:
    """Another run on the same files, beside the first: a smaller encoder with a tokenizer of its own, the labels of `tone` in
    another order, `same` and `near` encoded the other way, and no `stars`."""
    run = trained()
    files = run.parent / "files"
    tasks: dict[str, dict[str, Any]] = {
        name: {"kind": TASKS[name]} | {split: str(files / f"{name}-{split}.tsv") for split in ("train", "dev", "test")}
        for name in ("near", "same", "tone")
    }
    tasks["near"]["encoding"], tasks["same"]["encoding"], tasks["tone"]["labels"] = "cross", "bi", ["good", "bad"]
    values = {
        "tasks": tasks,
        "encoder": {"name": "tiny", "dim": 16, "layers": 1, "attention_heads": 2, "intermediate": 16, "vocabulary": 100, "max_length": 24},
        "training": {"steps": 6, "steps_per_epoch": 6, "batch_size": 8, "device": "cpu", "seed": 7},
    }  # fmt: skip
    return _train(values, run.with_name("other"))


def _train(values: dict[str, Any], folder: Path) -> Path:
    for _ in train(set_up(resolve([Layer(values)])), folder, command="mtl train"):
        pass
    return folder


def copy_of(run: Path, to: Path) -> Path:
    """A copy of a run that a test may damage."""
    return shutil.copytree(run, to / "run")
