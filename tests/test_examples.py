"""Every example recipe trains two steps without a network, by the command on its first line. Those of papers:
test_recipe_pages.py."""

import shlex
import shutil
from itertools import islice
from pathlib import Path

import pytest

from mtlcli import registry
from mtlcli.cli.options import RunOptions
from mtlcli.tasks import sample
from mtlcli.training.events import Finished
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up

ROOT = Path(__file__).parent.parent
# Not those of pages, and of a sweep, which have tests of their own.
RECIPES = sorted(
    path
    for path in (ROOT / "examples").rglob("*.yaml")
    if not path.with_name("README.md").exists() and path.parent.name != "sweep"
)
METHODS = {path.stem: path for path in RECIPES if path.parent.name in ("methods", "architectures")}
FAMILIES = ("schedulers", "balancers", "gradient_regularizers", "regularizers", "architectures")
SMALL = ["encoder.dim=16", "encoder.layers=2", "encoder.attention_heads=2", "encoder.intermediate=16", "encoder.vocabulary=200",
         "training.steps=2", "training.batch_size=4", "training.device=cpu"]  # fmt: skip
ELSEWHERE = {"FOLDER": None, "minilm": "tiny"}
"""What a recipe leaves to whoever runs it, and what takes its place here: the made-up corpus, and an encoder that needs no
download."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the examples in it, so that what they leave behind is not in the checkout."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def commands_of(path):
    """The `mtl train` commands on the first line, as the words behind `mtl train`."""
    first = path.read_text().splitlines()[0]
    assert first.startswith("# mtl train --config examples/"), first
    words = [shlex.split(command) for command in first.removeprefix("# ").split(" && ")]
    assert all(one[:2] == ["mtl", "train"] for one in words), first
    return [one[2:] for one in words]


def configured(words, sets=()):
    """The configuration of a command in the current folder, and where its run goes."""
    flags = {
        key: words[words.index(f"--{key}") + 1]
        for key in ("config", "output", "data", "encoder")
        if f"--{key}" in words
    }
    assert len(words) == 2 * len(flags), words
    named = {key: ELSEWHERE.get(value, value) for key, value in flags.items() if key in ("data", "encoder")}
    without_data = "data" in flags and named["data"] is None
    config = RunOptions(config=Path(flags["config"]), sample=without_data, sets=list(sets), **named).configure()
    return config, Path(flags["output"])


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains_two_steps_by_the_command_on_its_first_line(path, place, monkeypatch):
    few, rows = 40, sample._rows
    monkeypatch.setattr(sample, "_rows", lambda *arguments: islice(rows(*arguments), few))
    monkeypatch.chdir(place)
    for words in commands_of(path):
        config, output = configured(words, SMALL)
        if not output.exists():  # one recipe may start from what another one has made
            *_, last = train(set_up(config), output)
            assert isinstance(last, Finished)
            assert (last.step, last.why) == (2, "finished")
            assert list(last.results) == list(config.tasks)


@pytest.mark.parametrize("path", METHODS.values(), ids=METHODS.keys())
def test_a_recipe_of_a_method_is_short_and_says_in_its_second_line_what_the_method_is(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 20
    assert lines[1].startswith("# ")
    assert lines[0].endswith(f"--config examples/{path.parent.name}/{path.name} --output runs/{path.stem}")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_built_in_method_has_a_recipe_that_uses_it(family, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in registry.FAMILIES[family].built_in:
        if name != "hard-sharing":  # what all other recipes share by
            config, _ = configured(commands_of(METHODS[name])[-1])
            used = config.regularizers if family == "regularizers" else [getattr(config, family[:-1])]
            assert name in [one.name for one in used]


def test_every_recipe_of_a_method_is_on_the_sample_and_names_a_built_in_one():
    known = {name for family in FAMILIES for name in registry.FAMILIES[family].built_in}
    assert set(METHODS) <= known
    for path in METHODS.values():
        assert path.read_text().splitlines()[3:5] == ["sample: true", "tasks: [sst, quora, sts]"]
