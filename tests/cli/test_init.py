"""Starting from a finished run: `mtl train --init RUN`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mtlcli.config.layers import Layer, read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.config.shorthand import absolute_paths
from mtlcli.errors import MtlError
from mtlcli.runs.record import inherited_sections
from mtlcli.runs.saved_model import load_run
from mtlcli.training.setup import set_up
from trained import copy_of, trained

KINDS = {
    "tone": ("classification", "tone"),
    "near": ("pair-regression", "near"),
    "mood": ("classification", "tone"),
}
"""Kind and file of each task; `mood` is not in the run."""
SHORT = ["--set", "training.steps=2", "--batch-size", "8", "--device", "cpu"]


def files() -> Path:
    """Where the files of the run are."""
    return trained().parent / "files"


@pytest.fixture
def origin(tmp_path) -> Path:
    """A copy of the finished run, which has an encoder of its own make."""
    return copy_of(trained(), tmp_path)


def tasks(*names: str) -> list[str]:
    """Flags that name these tasks of the run with its files."""
    found: list[str] = []
    for name in names:
        found += ["--task", f"{name}={files() / f'{name}-train.tsv'},{files() / f'{name}-dev.tsv'}"]
        found += ["--set", f"tasks.{name}.kind={KINDS[name][0]}"]
    return found


def configured(origin: Path, *names: str, **sections: object):
    section: dict[str, dict[str, object]] = {
        name: {"kind": kind, "train": str(files() / f"{file}-train.tsv"), "dev": str(files() / f"{file}-dev.tsv")}
        for name, (kind, file) in KINDS.items()
        if name in names
    }
    steps = {"steps": 2, "batch_size": 8, "device": "cpu"}
    for name, change in dict(sections.pop("change", {})).items():
        section[name] |= change
    return resolve(
        [Layer({"tasks": section, "training": steps, "init": str(origin), **sections})], inherit=inherited_sections
    )


def test_encoder_and_heads_of_the_same_name_go_on_and_others_start_anew(origin):
    prepared = set_up(configured(origin, "tone", "near", change={"near": {"head": "pair-concat"}}))
    before, _ = load_run(origin)
    encoder = prepared.model.architecture.encoder.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in before.encoder.model.state_dict().items())
    assert torch.equal(prepared.model.head(0).out.weight, before.model.head(before.task("tone")).out.weight)
    assert prepared.plan.notes[:2] == (
        f"starts from {origin}: the encoder and the heads of tone",
        'near: its head starts from random weights: it was "cosine" and is "pair-concat"',
    )


def test_the_encoder_of_the_run_needs_not_be_said_and_pooling_may_change(origin):
    config = configured(origin, "tone", encoder={"pooling": "cls"})
    assert (config.encoder.name, config.encoder.options["dim"], config.encoder.pooling) == ("tiny", 32, "cls")
    assert set_up(config).encoder.dim == 32


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            "minilm",
            'encoder: found "minilm", but the run to start from has the encoder "tiny"; remove encoder or init',
        ),
        (
            {"dim": 64},
            "encoder.dim: found 64, but the encoder of the run to start from has 32; remove this key or init",
        ),
    ],
)
def test_another_encoder_is_one_sentence(origin, encoder, message):
    with pytest.raises(MtlError) as caught:
        configured(origin, "tone", encoder=encoder)
    assert message in caught.value.lines


def test_classes_of_the_run_that_are_not_those_of_now_start_anew(origin):
    prepared = set_up(configured(origin, "tone", change={"tone": {"labels": ["good", "bad"]}}))  # the other order
    assert (
        prepared.plan.notes[1] == "tone: its head starts from random weights: its classes differ from those of the run"
    )


def test_a_task_that_the_run_does_not_have_starts_anew(origin):
    prepared = set_up(configured(origin, "tone", "mood"))
    assert prepared.plan.notes[:2] == (
        f"starts from {origin}: the encoder and the heads of tone",
        "mood: its head starts from random weights: the run has no task of this name",
    )


def test_a_head_of_another_shape_starts_anew(tmp_path, mtl):
    def flags(width: int) -> list[str]:
        return ["--sample", "--task", "sst", "--set", f"tasks.sst.head={{name: mlp, hidden: [{width}]}}", *SHORT]

    assert mtl("train", *flags(8), "--set", "encoder.dim=32", "--output", tmp_path / "first").code == 0
    _, out, err = mtl("check", *flags(9), "--init", tmp_path / "first")
    assert "sst: its head starts from random weights: its shape differs" in " ".join((out + err).split())


def test_what_an_architecture_adds_goes_on_with_it(origin, tmp_path, mtl):
    first = ["--sample", "--task", "sst", "--set", "encoder.dim=32", "--set", "architecture=convolution", *SHORT]
    assert mtl("train", *first, "--output", tmp_path / "first").code == 0
    stored = load_file(tmp_path / "first" / "heads.safetensors")["architecture.convolution.weight"]

    def weight(**sections: object) -> torch.Tensor | None:
        config = resolve(
            [Layer({"tasks": {"sst": {}}, "sample": True, "init": str(tmp_path / "first"), **sections})],
            inherit=inherited_sections,
        )
        prepared = set_up(config)
        found = dict(prepared.model.architecture.named_parameters()).get("convolution.weight")
        assert any(
            "the architecture's convolution start from random weights" in note for note in prepared.plan.notes
        ) == (found is not None and found.shape != stored.shape)
        return found

    assert torch.equal(weight(), stored)  # the architecture of the run, where nobody says otherwise
    assert torch.equal(weight(architecture={"name": "convolution", "activation": "tanh"}), stored)
    assert weight(architecture={"name": "convolution", "kernel": 5}).shape != stored.shape
    assert weight(architecture="hard-sharing") is None


def test_the_new_run_is_saved_measured_and_used_like_any_other(origin, tmp_path, mtl):
    code, out, err = mtl("train", "--init", origin, *tasks("tone", "near"), *SHORT, "--output", tmp_path / "new")
    assert code == 0, err
    assert "the encoder and the heads of tone, near" in " ".join((out + err).split())
    shutil.rmtree(origin)  # needed no more
    assert mtl("eval", tmp_path / "new").code == 0
    code, out, _ = mtl("predict", tmp_path / "new", "--task", "tone", stdin=b"the pie is superb\n")
    assert code == 0 and out.startswith('{"tone": {"label": ')


def test_resuming_needs_the_first_run_no_more(origin, tmp_path, mtl):
    output = tmp_path / "new"
    recipe = tmp_path / "recipe.yaml"
    task = {"kind": "classification", "train": f"{files()}/tone-train.tsv", "dev": f"{files()}/tone-dev.tsv"}
    training = {"steps": 2, "batch_size": 8, "device": "cpu"}
    recipe.write_text(yaml.safe_dump({"init": "run", "tasks": {"tone": task}, "training": training}))
    assert mtl("train", "--config", recipe, "--output", output).code == 0
    assert read_recipe(output / "config.yaml").values["init"] == str(origin)
    shutil.rmtree(origin)
    assert mtl("train", "--resume", "--output", output, "--steps", 3).code == 0
    assert mtl("train", "--config", recipe, "--resume", "--output", output, "--steps", 4).code == 0
    assert json.loads((output / "results.json").read_text())["steps"] == 4


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_run_that_cannot_be_started_from_is_named(origin, tmp_path, mtl, damage):
    if damage == "gone":
        (origin / "run.json").unlink()
        expected = f"--init: {origin}: "
    else:
        (origin / "heads.safetensors").write_bytes(b"nothing")
        expected = f"init: {origin}/heads.safetensors: is not as it was written"
    code, _, err = mtl("train", "--init", origin, *tasks("tone"), *SHORT, "--output", tmp_path / "new")
    assert code == 2 and len(err.splitlines()) == 1
    assert err.startswith(f"error: {expected}")
    assert not (tmp_path / "new").exists()


def test_a_relative_path_is_relative_to_the_recipe(tmp_path):
    layer = absolute_paths(Layer({"init": "runs/a"}), tmp_path)
    assert layer.values["init"] == str(tmp_path / "runs" / "a")
