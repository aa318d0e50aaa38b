"""Pages of recipes, the papers' systems and our best: every command runs, for two steps, without a network, and every recipe is
among them."""

import csv
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml

from mtlcli.cli import main
from mtlcli.devices import find_precision
from mtlcli.tasks import sample

ROOT = Path(__file__).parent.parent
PAGES = {
    path.parent.name: path for path in sorted((ROOT / "examples").rglob("README.md")) if any(path.parent.glob("*.yaml"))
}
RECIPES = sorted(recipe for page in PAGES.values() for recipe in page.parent.glob("*.yaml"))
PUBLISHED = sorted((ROOT / "examples" / "papers").rglob("*.csv"))
TINY = ["dim=16", "layers=2", "attention_heads=2", "intermediate=16", "vocabulary=200", "max_length=32"]
SHORT = ["steps=2", "batch_size=4", "micro_batches=1", "device=cpu"]
END = "-- end of a command --"


def commands_of(page: Path, scratch: Path) -> list[list[str]]:
    """The words behind `mtl` of each command in the page's `sh` blocks, as a shell makes them in an empty folder."""
    blocks = [part.split("\n```")[0] for part in page.read_text().split("```sh\n")[1:]]
    echo = f'mtl() {{ for word in "$@"; do printf "%s\\n" "$word" >&3; done; echo "{END}" >&3; }}'
    script = "\n".join(["exec 3>&1", echo, *blocks])
    scratch.mkdir()
    found = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, cwd=scratch)
    return [one.strip("\n").split("\n") for one in found.stdout.split(END)[:-1]]


def call(words: list[str], monkeypatch) -> None:
    """A command in this process; it has to end well."""
    monkeypatch.setattr(sys, "argv", ["mtl", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, words


def shortened(words: list[str]) -> list[str]:
    """A `mtl train` command on a few made-up rows with a small encoder, for two steps."""
    at = words.index("--data")
    pairs = [f"encoder.{pair}" for pair in TINY] + [f"training.{pair}" for pair in SHORT]
    sets = [word for pair in pairs for word in ("--set", pair)]
    return [*words[:at], *words[at + 2 :], "--sample", "--encoder", "tiny", *sets, "--quiet"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the examples in it, and few rows in the made-up corpus."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    few, rows = 40, sample._rows
    monkeypatch.setattr(sample, "_rows", lambda *arguments: islice(rows(*arguments), few))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs_and_its_table_is_whole(page, place, monkeypatch, capsys):
    trained = []
    for words in commands_of(PAGES[page], place / "shell"):
        if words[0] == "train":
            call(shortened(words), monkeypatch)
            trained.append(words[words.index("--output") + 1])
        elif words[0] == "eval":
            call([*words, "--quiet"], monkeypatch)
        elif words[0] == "ensemble":  # two steps reach no threshold
            without = [
                word for word in words if word != "--threshold" and not word.startswith(("sst=", "quora=", "sts="))
            ]
            call(without, monkeypatch)
        elif "--published" in words:
            capsys.readouterr()
            call(words, monkeypatch)
            assert "not run yet" not in capsys.readouterr().out
        elif words[0] == "compare":
            call(words, monkeypatch)
        else:
            assert words[0] == "table"
    assert len(trained) == len(set(trained))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_first_line_of_a_recipe_is_a_command_of_its_page(path, place):
    first = path.read_text().splitlines()[0]
    known = {frozenset(words) for words in commands_of(path.parent / "README.md", place / "shell")}
    for command in first.removeprefix("# ").split(" && "):
        program, *words = command.split(" ")
        assert program == "mtl" and frozenset(words) in known, command
    assert words[words.index("--config") + 1] == str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_asks_for_no_precision_that_only_some_machines_have(path):
    precision = yaml.safe_load(path.read_text()).get("training", {}).get("precision", "auto")
    assert find_precision(precision, torch.device("cpu")) == "fp32"


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_page_shows_the_numbers_of_the_paper_as_they_are_in_its_file(path):
    page = (path.parent / "README.md").read_text()
    for row in csv.reader(path.read_text().splitlines()):
        assert "\n| " + " | ".join(row) + " | " in page


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_mean_that_a_paper_prints_is_that_of_its_numbers(path):
    head, *rows = csv.reader(path.read_text().splitlines())
    if not head[-1].startswith("mean"):
        return
    for row in rows:
        *parts, mean = (float(cell.split(" ")[0]) for cell in row[-4:])
        assert sum(parts) / 3 == pytest.approx(mean, abs=0.003), row
