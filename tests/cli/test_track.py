"""`--tracker` and `mtl track` on the command line."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from event_files import curves
from mtlcli.config.layers import dump
from mtlcli.files import sha256
from mtlcli.runs.lock import lock_folder
from small import small_values, write_files


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> dict:
    """A recipe of a few steps with one tracker, in the folder where the test stands."""
    monkeypatch.chdir(tmp_path)
    values = small_values(write_files(tmp_path / "files")) | {"trackers": [{"name": "tensorboard"}]}
    values["tasks"] = {"tone": values["tasks"]["tone"]}
    values["training"] |= {"steps": 4, "steps_per_epoch": 2}
    Path("recipe.yaml").write_text(dump(values))
    return values


def only_error(ended) -> str:
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    return ended.err


def test_a_missing_package_is_one_line_before_data_is_read(mtl, recipe, monkeypatch):
    shutil.rmtree("files")  # would be the error of reading data
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else found(name))
    Path("recipe.yaml").write_text(dump(recipe))
    for command in ("train", "check"):
        ended = mtl(command, "-c", "recipe.yaml", "-o", "run")
        assert ended.code == 2
        assert ended.err == (
            "error: trackers.0: tensorboard: the package tensorboardX is not installed; install it with: pip install "
            "'mtlcli[tensorboard]'\n"
        )
        assert not Path("run").exists()


def test_a_run_sent_later_has_the_curves_of_the_live_one(mtl, recipe):
    assert mtl("train", "-c", "recipe.yaml", "-o", "run", "-q").code == 0
    storage = Path("run/trackers/tensorboard")
    live = curves(storage)
    ended = mtl("track", "run")
    assert (ended.code, ended.out) == (0, "run: sent 4 steps and 2 evaluations\n")
    assert curves(storage) == live
    assert mtl("track", "run", "--set", "tensorboard.every=2", "-q").out == ""
    assert curves(storage)["lr"] == live["lr"][1::2]


def test_a_run_without_trackers_can_be_sent_to_one_later(mtl, recipe):
    Path("recipe.yaml").write_text(dump(recipe | {"trackers": []}))
    assert mtl("train", "-c", "recipe.yaml", "-o", "run", "-q").code == 0
    before = sha256(Path("run/config.yaml"))
    assert only_error(mtl("track", "run")) == (
        "error: run: its configuration has no tracker; name one with --tracker NAME\n"
    )
    assert mtl("track", "run", "--tracker", "tensorboard").code == 0
    assert [step for step, _ in curves(Path("run/trackers/tensorboard"))["lr"]] == [1, 2, 3, 4]
    assert sha256(Path("run/config.yaml")) == before


def test_trackers_are_no_part_of_a_run(mtl, recipe):
    assert mtl("train", "-c", "recipe.yaml", "-o", "with", "-q").code == 0
    Path("recipe.yaml").write_text(dump(recipe | {"trackers": []}))
    assert mtl("train", "-c", "recipe.yaml", "-o", "without", "-q").code == 0
    for name in ("run.json", "metrics.jsonl", "encoder/model.safetensors", "checkpoints/step-4/optimizer.safetensors"):
        assert sha256(Path("with", name)) == sha256(Path("without", name)), name
    # A finished run with other trackers is still the same run, and an unfinished one is resumed.
    ended = mtl("train", "--resume", "-o", "without", "--tracker", "tensorboard")
    assert ended.out.endswith("the run in without is already finished, after step 4; nothing was written\n")
    ended = mtl("train", "--resume", "-o", "with", "--set", "trackers=[]", "--steps", 6, "-q")
    assert ended.code == 0
    assert [step for step, _ in curves(Path("with/trackers/tensorboard"))["lr"]] == [1, 2, 3, 4]


def test_a_run_with_a_tracker_that_is_not_installed_here_can_be_used_and_resumed(mtl, recipe):
    assert mtl("train", "-c", "recipe.yaml", "-o", "run", "-q").code == 0
    path = Path("run/config.yaml")
    head, _, text = path.read_text().partition("\n")
    text = text.replace("name: tensorboard", "name: elsewhere")
    path.write_text(f"{head[:-64]}{_sha(text)}\n{text}")
    assert mtl("eval", "run", "-q").code == 0
    assert 'unknown tracker "elsewhere"' in only_error(mtl("train", "--resume", "-o", "run", "--steps", 6, "-q"))
    assert mtl("train", "--resume", "-o", "run", "--steps", 6, "-q", "--set", "trackers=[]").code == 0


def _sha(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def test_mistakes_are_one_line_each(mtl, recipe):
    assert only_error(mtl("train", "-c", "recipe.yaml", "-o", "x", "--tracker", "tensorbord")) == (
        'error: --tracker: trackers.0: unknown tracker "tensorbord"; did you mean "tensorboard"?\n'
    )
    assert "--tracker tensorboard: listed twice" in only_error(
        mtl("train", "-c", "recipe.yaml", "--tracker", "tensorboard", "--tracker", "tensorboard")
    )
    assert only_error(mtl("train", "-c", "recipe.yaml", "-o", "x", "--set", "trackers.0.every=0")) == (
        "error: --set trackers.0.every: found '0': input should be greater than or equal to 1\n"
    )
    assert mtl("train", "-c", "recipe.yaml", "-o", "run", "-q").code == 0
    track = ("track", "run", "--tracker", "tensorboard")
    assert only_error(mtl(*track, "--set", "tensorboard.evry=2")) == (
        'error: --set tensorboard.evry: unknown option of "tensorboard"; did you mean "every"?\n'
    )
    assert "--set every=2: expected NAME.KEY=VALUE" in only_error(mtl(*track, "--set", "every=2"))
    assert "--set tensorbord: no tracker of this name" in only_error(mtl(*track, "--set", "tensorbord.every=2"))
    assert "--tracker tensorboard: listed twice" in only_error(mtl(*track, "--tracker", "tensorboard"))
    assert "files: not a run folder (no metrics.jsonl)" in only_error(mtl("track", "files"))
    with lock_folder(Path("run")):
        assert "run is in use" in only_error(mtl(*track))


def test_runs_of_seeds_a_study_and_an_ensemble_are_sent_each_by_itself(mtl, recipe):
    Path("recipe.yaml").write_text(dump(recipe | {"trackers": []}))
    assert mtl("train", "-c", "recipe.yaml", "-o", "group", "--seeds", "1,2", "-q").code == 0
    assert mtl("ensemble", "group/seed-1", "group/seed-2", "-o", "both", "-q").code == 0
    for folder in ("group", "both"):
        ended = mtl("track", folder, "--tracker", "tensorboard")
        assert ended.code == 0
        assert [line.partition(":")[0].rpartition("/")[2] for line in ended.out.splitlines()] == ["seed-1", "seed-2"]
    ids = [json.loads(Path(f"group/seed-{seed}/trackers.json").read_text())["ids"] for seed in (1, 2)]
    assert ids == [{"tensorboard": None}] * 2


@pytest.mark.slow
def test_every_run_of_a_study_is_tracked(mtl, recipe):
    study = ("study", "equal", "uncertainty", "-c", "recipe.yaml", "--seeds", "1", "--no-tuned", "-o", "study", "-q")
    assert mtl(*study, "--tracker", "tensorboard").code == 0
    runs = sorted(path.parent for path in Path("study").glob("*/**/metrics.jsonl"))
    assert len(runs) == 3
    for run in runs:
        assert [step for step, _ in curves(run / "trackers/tensorboard")["lr"]] == [1, 2, 3, 4]
    assert mtl(*study, "--set", "trackers=[]").code == 0  # resumed: other trackers are no other study
