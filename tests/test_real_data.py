"""The CS224N files, unchanged, load with the counts of their README."""

import re

import pytest

from mtlcli import registry
from mtlcli.config.schema import TaskConfig
from mtlcli.data.splits import load_task, overlap

pytestmark = pytest.mark.real_data
ROW = re.compile(r"^\| (\S+)-(train|dev)\.csv \| (\d+) \|", re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "file", "train", "dev", "skipped"),
    [
        ("sst", "ids-sst", 8544, 1101, 0),
        ("cfimdb", "ids-cfimdb", 1707, 245, 0),
        ("quora", "quora", 17114, 1959, 1),
        ("sts", "sts", 6040, 863, 0),
    ],
)
def test_a_task_has_the_rows_that_the_readme_counts(data, name, file, train, dev, skipped):
    folder = data / "cs224n"
    loaded = load_task(
        name, TaskConfig(), registry.load("tasks", name, "test")(name), data=str(folder), sample=False, seed=1
    )
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": train, "dev": dev}
    counted = {
        (found[0], found[1]): int(found[2]) for found in ROW.findall((folder / "README.md").read_text(encoding="utf-8"))
    }
    assert (counted[file, "train"], counted[file, "dev"]) == (train + skipped, dev + skipped)
    for split in loaded.splits.values():
        assert [line.partition(" (")[0] for line in split.warnings] == [f"{name} {split.name}: 1 row skipped"] * skipped
    assert overlap(loaded.splits["train"], loaded.splits["dev"]) < 0.05 * dev


def test_classes_of_every_task_occur(data):
    for name, classes in (("sst", 5), ("cfimdb", 2), ("quora", 2)):
        task = registry.load("tasks", name, "test")(name)
        loaded = load_task(name, TaskConfig(), task, data=str(data / "cs224n"), sample=False, seed=1)
        assert (
            set(loaded.splits["train"].gold["index"].tolist())
            == set(range(classes))
            == set(range(len(loaded.target.labels)))
        )


def test_similarities_are_within_their_range(data):
    task = registry.load("tasks", "sts", "test")("sts")
    loaded = load_task("sts", TaskConfig(), task, data=str(data / "cs224n"), sample=False, seed=1)
    targets = loaded.splits["train"].gold["value"]
    assert (targets.min(), targets.max()) == (0.0, 5.0)
    assert loaded.target.mean == pytest.approx(targets.mean())
