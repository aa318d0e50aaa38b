"""Run folders on the command line: who may write them, what is kept, and what is said even with --quiet."""

import json
import os
import time
from pathlib import Path

import pytest

from mtlcli.config.layers import dump
from mtlcli.files import sha256
from mtlcli.runs.checkpoint import MANIFEST, hashes
from mtlcli.runs.lock import lock_folder
from small import small_values, write_files
from trained import copy_of, other, trained


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe of a few steps, in the folder where the test stands."""
    monkeypatch.chdir(tmp_path)
    values = small_values(write_files(tmp_path / "files"))
    values["tasks"] = {"tone": values["tasks"]["tone"]}
    values["training"] |= {"steps": 4, "steps_per_epoch": 2, "keep_last": 3}
    Path("recipe.yaml").write_text(dump(values))
    return "recipe.yaml"


def last_error(ended) -> str:
    assert ended.code == 2
    return ended.err.splitlines()[-1]


def content(folder: str) -> dict[str, str]:
    return {str(path): sha256(path) for path in Path(folder).rglob("*") if path.is_file()}


def test_a_finished_run_with_nothing_left_to_do_is_left_as_it_is(mtl, recipe):
    assert mtl("train", "-c", recipe, "-o", "run", "-q").code == 0
    before = content("run")
    for more in ((), ("--steps", 2), ("-q",)):
        ended = mtl("train", "--resume", "-o", "run", *more)
        assert ended.code == 0
        assert ended.out.splitlines()[-1] == ("the run in run is already finished, after step 4; nothing was written")
        assert content("run") == before


def test_a_run_that_was_killed_before_its_results_is_not_made_shorter(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "run", "-q")
    Path("run/results.json").unlink()
    error = last_error(mtl("train", "--resume", "-o", "run", "--steps", 2))
    assert "--resume: run was trained for 4 steps, but this configuration has only 2" in error
    assert mtl("train", "--resume", "-o", "run", "-q").code == 0
    assert Path("run/results.json").is_file()


def test_a_finished_run_without_checkpoints_is_not_trained_again(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "run", "-q")
    for path in Path("run/checkpoints").iterdir():
        path.rename(Path("elsewhere-" + path.name))
    before = content("run")
    assert "is already finished" in mtl("train", "--resume", "-o", "run").out
    error = last_error(mtl("train", "--resume", "-o", "run", "--steps", 6))
    assert (
        "run: is finished and has no checkpoint to resume from; keep it as it is, or train again with --overwrite"
        in error
    )
    assert content("run") == before


def test_a_damaged_checkpoint_is_said_whatever_quiet_says(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "run", "-q")
    Path("run/checkpoints/step-4/model.safetensors").write_bytes(b"")
    Path("run/results.json").write_text("{")
    Path("run/config.yaml").write_text("")
    ended = mtl("train", "--resume", "-o", "run", "-q")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "warning: run/checkpoints/step-4: skipped: model.safetensors is not as it was written (sha256 differs)",
        "warning: run: resuming from step 2 instead",
        "warning: run/config.yaml: is empty; using the configuration in run/checkpoints/step-2, and writing it again. Change a "
        "run with flags or --config",
    ]
    assert json.loads(Path("run/results.json").read_text())["steps"] == 4


def test_damaged_lines_of_the_log_are_said_whatever_quiet_says(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "run", "-q")
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    Path("run/metrics.jsonl").write_text("\n".join([lines[0], lines[1][:9], *lines[2:]]) + "\n")
    assert "run/metrics.jsonl:2: damaged" in last_error(mtl("report", "run", "--points", 0))
    ended = mtl("train", "--resume", "-o", "run", "--steps", 6, "-q")
    assert ended.err.splitlines() == ["warning: run/metrics.jsonl: 1 damaged lines were removed"]
    kept = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in kept if line["kind"] == "step"] == [1, 3, 4, 5, 6]


def test_replacing_a_run_keeps_what_the_user_put_there(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "run", "-q")
    Path("run/notes.txt").write_text("mine")
    ended = mtl("train", "-c", recipe, "-o", "run", "--overwrite")
    assert ended.code == 0
    assert "run: kept, because no run wrote it: notes.txt" in ended.err
    assert Path("run/notes.txt").read_text() == "mine"


def test_the_folder_that_was_named_is_filled_and_never_replaced(mtl, recipe, monkeypatch):
    Path("real").mkdir()
    Path("link").symlink_to("real")
    for more in ((), ("--overwrite",)):
        assert mtl("train", "-c", recipe, "-o", "link", "-q", *more).code == 0
        assert Path("link").is_symlink() and Path("real/results.json").is_file()
    inode = Path("real").stat().st_ino
    monkeypatch.chdir("real")
    assert mtl("train", "-c", "../recipe.yaml", "-o", ".", "-q", "--overwrite").code == 0
    assert Path(".").stat().st_ino == inode and Path("results.json").is_file()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_slow(mtl, recipe, monkeypatch):
    def set_up(*arguments, **more):
        raise AssertionError("the data was read")

    monkeypatch.setattr("mtlcli.training.setup.set_up", set_up)
    monkeypatch.setattr("mtlcli.studies.plan.set_up", set_up)
    Path("file.csv").touch()
    expected = "error: --output: file.csv/run: cannot be written (Not a directory); choose another folder"
    assert last_error(mtl("train", "-c", recipe, "-o", "file.csv/run")) == expected
    assert last_error(mtl("train", "-c", recipe, "-o", "file.csv/run", "--seeds", "1,2")) == expected
    assert last_error(mtl("study", "equal", "-c", recipe, "-o", "file.csv/run")) == expected
    assert last_error(mtl("ensemble", trained(), other(), "-o", "file.csv/run")) == expected


def test_runs_without_an_output_in_the_same_second_get_two_folders(mtl, recipe, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20260102-030405")
    for _ in range(2):
        assert mtl("train", "-c", recipe, "-q").code == 0
    assert mtl("train", "-c", recipe, "--seeds", "1", "-q").code == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert names == [f"tone-equal-20260102-030405{end}" for end in ("", "-2", "-3")]


def test_a_folder_that_is_in_use_is_one_line_for_every_command_that_writes_to_it(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "run", "-q")
    mtl("train", "-c", recipe, "-o", "group", "--seeds", "1", "-q")
    commands = {
        "new": ("train", "-c", recipe), "run": ("train", "--resume"), "group": ("train", "--resume"),
        "study": ("study", "equal", "-c", recipe), "ensemble": ("ensemble", trained(), other()),
    }  # fmt: skip
    for folder, command in commands.items():
        with lock_folder(Path(folder)):
            ended = mtl(*command, "-o", folder)
            assert ended.code == 2
            assert ended.err.startswith(f"error: --output: {folder} is in use by this process since ")
            assert len(ended.err.splitlines()) == 1
    with lock_folder(Path("group/seed-1")):
        error = last_error(mtl("train", "--resume", "--steps", 6, "-o", "group"))
        assert "group/seed-1 is in use by this process" in error


def test_a_torn_result_of_one_seed_is_written_again(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "group", "--seeds", "1,2", "-q")
    expected = json.loads(Path("group/seed-2/results.json").read_text())["tasks"]
    torn = Path("group/seed-2/results.json")
    torn.write_text(torn.read_text()[:200])
    for command in (("table", "group"), ("compare", "group", "group/seed-1")):
        assert "group/seed-2/results.json: damaged" in last_error(mtl(*command))
    assert mtl("train", "--resume", "-o", "group", "-q").code == 0
    assert json.loads(torn.read_text())["tasks"] == expected


def test_a_run_that_has_not_finished_says_of_which_step_its_model_is(mtl, tmp_path):
    run = copy_of(trained(), tmp_path)
    (run / "results.json").unlink()
    note = (
        f"note: {run}: the run has not finished; its model is of step 6 of 6, the best so far; resume it with: mtl train "
        f"--resume --output {run}"
    )
    for command in (
        ("eval", run, "--resamples", 20),
        ("compare", run, other(), "--resamples", 100),
        ("report", run, "--points", 0, "-o", tmp_path / "page.html"),
    ):
        ended = mtl(*command)
        assert ended.code == 0
        assert ended.err.splitlines().count(note) == 1
    assert note in mtl("predict", run, "-t", "tone", stdin=b"the pie\n").err.splitlines()


def test_a_checkpoint_of_a_newer_version_names_it(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "run", "-q")
    Path("run/results.json").unlink()
    folder = Path("run/checkpoints/step-4")
    state = json.loads((folder / "state.json").read_text())
    state["mtlcli"] = "9.0"
    state["progress"]["new_key"] = 1
    (folder / "state.json").write_text(json.dumps(state))
    (folder / MANIFEST).write_text(json.dumps(hashes(folder)))
    error = last_error(mtl("train", "--resume", "-o", "run"))
    assert "run/checkpoints/step-4: was written by mtlcli 9.0 and cannot be read by this mtlcli" in error
    assert "new_key" in error


def test_nothing_unfinished_stays_beside_a_page_or_predictions(mtl, tmp_path):
    assert mtl("report", trained(), "--points", 0, "-o", tmp_path / "page.html").code == 0
    assert mtl("predict", trained(), "-t", "tone", "-o", tmp_path / "out.jsonl", stdin=b"the pie\n").code == 0
    assert {"page.html", "out.jsonl"} == {path.name for path in tmp_path.iterdir()} - {"cache"}
    assert os.stat(tmp_path / "page.html").st_mode & 0o777 == os.stat(tmp_path / "out.jsonl").st_mode & 0o777
