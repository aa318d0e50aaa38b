"""`mtl train --seeds`: one run for each seed, what it leaves, and how it goes on."""

import json
import os
import shutil
import signal
import statistics
from pathlib import Path

import pytest

from mtlcli.cli.console import TrainingView
from mtlcli.config.layers import dump
from small import small_values, write_files


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe of a few steps, in the folder where the test stands."""
    monkeypatch.chdir(tmp_path)
    values = small_values(write_files(tmp_path / "files"))
    values["training"]["steps"] = 4
    Path("recipe.yaml").write_text(dump(values))
    return "recipe.yaml"


def results(folder: str) -> dict:
    return json.loads((Path(folder) / "results.json").read_text())["tasks"]


def last_error(ended) -> str:
    assert ended.code == 2
    return ended.err.splitlines()[-1]


def stop_at(monkeypatch, run: int, step: int) -> None:
    """Ctrl-C after a step of one of the runs."""
    seen = []

    def stepped(self, event):
        seen.append(event.step)
        if seen.count(1) == run and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TrainingView, "stepped", stepped)


def test_every_seed_is_the_run_that_it_would_be_alone(mtl, recipe):
    assert mtl("train", "-c", recipe, "--seeds", "1,2", "-o", "group").code == 0
    assert mtl("train", "-c", recipe, "--seed", 2, "-o", "alone").code == 0
    assert results("group/seed-2") == results("alone")
    assert results("group/seed-1") != results("alone")


def test_mean_and_spread_are_printed_and_kept(mtl, recipe):
    code, out, _ = mtl("train", "-c", recipe, "--seeds", "1,2,3", "-o", "group", "-q")
    assert code == 0
    values = [results(f"group/seed-{seed}")["tone"]["dev"]["accuracy"]["value"] for seed in (1, 2, 3)]
    lines = out.splitlines()
    title = lines.index("group: 3 seeds (1, 2, 3)")
    assert lines[title + 2].split() == [
        "tone", "dev", "accuracy", f"{statistics.mean(values):.4f}", f"{statistics.stdev(values):.4f}",
        f"{min(values):.4f}", "to", f"{max(values):.4f}",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    kept = json.loads(Path("group/seeds.json").read_text())
    assert (kept["format"], kept["seeds"]) == (2, [1, 2, 3])
    assert kept["tasks"]["tone"]["dev"]["accuracy"]["values"] == values
    assert kept["tasks"]["tone"]["dev"]["accuracy"]["mean"] == pytest.approx(statistics.mean(values))


def test_two_groups_can_be_compared(mtl, recipe):
    for name, balancer in (("a", "equal"), ("b", "uncertainty")):
        assert mtl("train", "-c", recipe, "--seeds", "1,2", "--balancer", balancer, "-o", name, "-q").code == 0
    lines = mtl("compare", "a", "b", "--resamples", 100).out.splitlines()
    assert lines[:2] == ["A  a (2 seeds: 1, 2)", "B  b (2 seeds: 1, 2)"]


def test_ctrl_c_stops_all_and_resume_ends_like_the_unbroken_runs(mtl, recipe, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, run=2, step=2)
        ended = mtl("train", "-c", recipe, "--seeds", "1,2,3", "-o", "group")
    assert ended.code == 130
    assert "resume with: mtl train --resume --output group" in ended.out
    assert sorted(path.name for path in Path("group").iterdir()) == ["seed-1", "seed-2", "seeds.json"]
    assert "tasks" not in json.loads(Path("group/seeds.json").read_text())
    done = Path("group/seed-1/results.json").stat().st_mtime_ns
    ended = mtl("train", "--resume", "--output", "group")  # as it was advised: no recipe, no seeds
    assert ended.code == 0
    assert "seed 1: already finished" in ended.err and "resumed from group/seed-2" in ended.err
    assert Path("group/seed-1/results.json").stat().st_mtime_ns == done
    assert mtl("train", "-c", recipe, "--seeds", "1,2,3", "-o", "unbroken").code == 0
    for seed in (1, 2, 3):
        assert results(f"group/seed-{seed}") == results(f"unbroken/seed-{seed}")


def test_ctrl_c_at_the_last_step_of_a_run_says_how_to_go_on_too(mtl, recipe, monkeypatch):
    stop_at(monkeypatch, run=1, step=4)
    code, out, _ = mtl("train", "-c", recipe, "--seeds", "1,2", "-o", "group")
    assert code == 130
    assert out.splitlines()[-1] == "stopped after seed 1; resume with: mtl train --resume --output group"


def test_seeds_can_be_added_and_what_is_finished_stays(mtl, recipe):
    mtl("train", "-c", recipe, "--seeds", "1", "-o", "group", "-q")
    ended = mtl("train", "--seeds", "2", "--resume", "-o", "group")
    assert ended.code == 0
    assert "group: 2 seeds (1, 2)" in ended.out
    assert ended.err.count("already finished") == 1
    again = mtl("train", "--resume", "-o", "group")
    assert again.err.count("already finished") == 2


def test_another_configuration_is_no_resumption(mtl, recipe):
    mtl("train", "-c", recipe, "--seeds", "1", "-o", "group", "-q")
    error = last_error(mtl("train", "-c", recipe, "--seeds", "1", "--lr", "0.1", "--resume", "-o", "group"))
    assert "--resume: optimizer.lr: was" in error


def test_finished_runs_go_on_where_they_get_more_steps(mtl, recipe):
    mtl("train", "-c", recipe, "--seeds", "1", "-o", "group", "-q")
    assert mtl("train", "--resume", "-o", "group", "--steps", 6).code == 0
    assert json.loads(Path("group/seed-1/results.json").read_text())["steps"] == 6


def test_a_finished_run_without_checkpoints_is_not_trained_again(mtl, recipe):
    mtl("train", "-c", recipe, "--seeds", "1", "-o", "group", "-q")
    shutil.rmtree("group/seed-1/checkpoints")
    ended = mtl("train", "--resume", "-o", "group")
    assert ended.code == 0 and "already finished" in ended.err


def test_overwriting_replaces_the_runs_of_before_and_nothing_else(mtl, recipe):
    mtl("train", "-c", recipe, "--seeds", "1,2", "-o", "group", "-q")
    Path("group/notes.txt").write_text("mine")
    refused = last_error(mtl("train", "-c", recipe, "--seeds", "3", "-o", "group"))
    assert "add --resume to resume its runs, or --overwrite to replace them" in refused
    assert mtl("train", "-c", recipe, "--seeds", "3", "-o", "group", "--overwrite", "-q").code == 0
    assert sorted(path.name for path in Path("group").iterdir()) == ["notes.txt", "seed-3", "seeds.json"]


def test_nothing_is_removed_before_the_new_runs_can_begin(mtl, recipe):
    mtl("train", "-c", recipe, "--seeds", "1", "-o", "group", "-q")
    sets = ("--set", "tasks.tone.kind=classification")
    assert mtl("train", "-t", "tone=none.tsv", *sets, "--seeds", "1", "-o", "group", "--overwrite").code == 2
    assert Path("group/seed-1/results.json").is_file()


def test_a_folder_of_something_else_is_left_alone(mtl, recipe):
    mtl("train", "-c", recipe, "-o", "single", "-q")
    for flag in ("--overwrite", "--resume"):
        error = last_error(mtl("train", "-c", recipe, "--seeds", "1,2", "-o", "single", flag))
        assert "holds no runs with different seeds; choose another --output" in error
    mtl("train", "-c", recipe, "--seeds", "1", "-o", "group", "-q")
    assert "is not a run folder" in last_error(mtl("train", "-c", recipe, "-o", "group", "--overwrite"))


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_a_group_is_no_run_and_names_its_runs(mtl, recipe, command):
    mtl("train", "-c", recipe, "--seeds", "1,2", "-o", "group", "-q")
    assert last_error(mtl(command, "group")) == (
        "error: group: holds 2 runs with different seeds; name one of them: group/seed-1, group/seed-2"
    )


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--seeds", "1,two"), "--seeds 1,two: expected whole numbers with commas between them, such as 1,2,3"),
        (("--seeds", "1,1"), "--seeds 1,1: seed 1 is listed twice"),
        (("--seeds", "1,2", "--seed", "3"), "remove --seed and training.seed"),
        (("--seeds", "1,2", "--set", "training.seed=3"), "remove --seed and training.seed"),
        (("--seeds", "1,2", "--resume"), "--resume: requires --output, the folder of the runs"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_slow(mtl, recipe, flags, problem):
    assert problem in last_error(mtl("train", "-c", recipe, *flags))


def test_a_damaged_list_says_what_it_should_hold(mtl, recipe):
    mtl("train", "-c", recipe, "--seeds", "1", "-o", "group", "-q")
    Path("group/seeds.json").write_text("{}")
    error = last_error(mtl("eval", "group"))
    assert "group/seeds.json: damaged (sha256 differs)" in error
    assert error.endswith("write it again: mtl train --resume --seeds N,N,... --output group")
    assert mtl("train", "--resume", "--seeds", "1", "-o", "group", "-q").code == 0
    assert mtl("compare", "group", "group/seed-1", "--resamples", 100).code == 0
