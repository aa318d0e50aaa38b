"""`mtl sweep` on the sample files: trials, workers that are killed or stopped, resuming, objectives, the table and the page."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

import preloaded
from mtlcli.config.layers import read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.runs import checkpoint
from mtlcli.sweeps.results import read_sweep
from small import small_values, write_files

pytest.importorskip("optuna")

ROOT = Path(__file__).parent.parent.parent
SPACE = """
optimizer.lr: {log: [1e-4, 1e-2]}
balancer: [equal, uncertainty]
gradient_regularizer: [null, pcgrad]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    values = small_values(write_files(folder / "files"))
    values["training"] |= {"steps": 6, "steps_per_epoch": 2}
    values["optimizer"] = {"lr": 1e-3}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    (folder / "space.yaml").write_text(SPACE)
    return folder


def command(place: Path, output: Path, *flags: str, recipe: str = "recipe.yaml") -> list[str]:
    return ["sweep", "--config", str(place / recipe), "--space", str(place / "space.yaml"), "-o", str(output), *flags]


def trials_of(output: Path) -> list[dict]:
    return json.loads((output / "trials.json").read_text())["trials"]


@pytest.mark.slow
def test_a_sweep_its_table_its_page_and_its_best_recipe(place, tmp_path, mtl):
    output = tmp_path / "sweep"
    code, out, error = mtl(*command(place, output, "--trials", "5"))
    assert code == 0, error
    trials = trials_of(output)
    assert len(trials) == 5 and {trial["state"] for trial in trials} <= {"done", "pruned"}
    assert trials[0]["values"] == {"optimizer.lr": 1e-3, "balancer": "equal", "gradient_regularizer": None}
    assert trials[0]["state"] == "done" and [at for at, _ in trials[0]["curve"]] == [1, 2, 3]
    best = max((trial for trial in trials if trial["state"] == "done"), key=lambda trial: trial["scores"][0])
    config = resolve([read_recipe(output / "best.yaml")])
    assert config.optimizer.lr == best["values"]["optimizer.lr"] and config.balancer.name == best["values"]["balancer"]
    assert (output / best["place"] / "results.json").is_file()
    assert not list(output.glob("trials/*/checkpoints"))
    assert f"best: {best['place']}" in out and "too high" in out
    assert f"best: {best['place']}" in mtl("sweep", "--table", output).out
    code, out, error = mtl("table", output)
    assert code == 0 and best["place"].rpartition("/")[2] in out, error
    code, out, error = mtl("report", output, "-o", tmp_path / "page.html")
    assert code == 0, error
    page = (tmp_path / "page.html").read_text()
    assert "parallel coordinates" in page.lower() and "optimizer.lr" in page
    # Finished: nothing more to do. With more trials the sweep goes on, with another space it does not.
    assert mtl(*command(place, output, "--trials", "5", "--resume")).code == 0 and len(trials_of(output)) == 5
    assert mtl(*command(place, output, "--trials", "6", "--resume")).code == 0 and len(trials_of(output)) == 6
    refused = mtl(*command(place, output, "--trials", "6"))
    assert refused.code == 2 and "add --resume" in refused.err
    (tmp_path / "other.yaml").write_text(SPACE.replace("1e-2", "2e-2"))
    refused = mtl(*command(place, output, "--resume", "--space", str(tmp_path / "other.yaml")))
    assert refused.code == 2 and "differs from the space" in refused.err and "optimizer.lr" in refused.err


@pytest.mark.slow
def test_the_command_of_the_example(tmp_path, mtl, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = (ROOT / "examples/sweep/recipe.yaml").read_text().splitlines()[0].removeprefix("# mtl ").split()
    short = [
        "--trials",
        "2",
        "--steps",
        "2",
        "--set",
        "training.steps_per_epoch=2",
        "--output",
        str(tmp_path / "sweep"),
    ]
    code, out, error = mtl(*words, *short)
    assert code == 0 and "best: trials/" in out, error


def start(place: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*preloaded.python(), "-m", "mtlcli", *command(place, output, *flags)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_goes_on_and_none_is_lost_or_run_twice(place, tmp_path):
    output = tmp_path / "sweep"
    flags = ("--trials", "5", "--no-pruning", "--set", "training.save_every=1", "--set", "training.steps=12")
    worker = start(place, output, *flags)
    try:
        while not any(step > 1 for step in checkpoint.steps(output / "trials" / "000" / "checkpoints")):
            assert worker.poll() is None, worker.communicate()
            time.sleep(0.01)
    finally:
        worker.kill()
    text, _ = worker.communicate()
    assert "trials/000: starts" in text
    workers = [start(place, output, *flags, "--resume") for _ in range(2)]
    texts = [worker.communicate(timeout=240)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], texts
    trials = trials_of(output)
    assert [trial["state"] for trial in trials] == ["done"] * 5
    assert len({trial["place"] for trial in trials}) == 5
    again = next(trial for trial in trials if trial["place"] == "trials/000")
    assert again["attempts"] == 2 and any("trials/000: goes on" in text for text in texts)
    steps = [
        json.loads(line)["step"]
        for line in (output / "trials/000/metrics.jsonl").read_text().splitlines()
        if '"kind": "step"' in line
    ]
    assert steps == list(range(1, 13))
    for trial in trials:
        assert len((output / trial["place"] / "command.txt").read_text().splitlines()) == (2 if trial is again else 1)


@pytest.mark.slow
def test_a_stopped_worker_says_how_to_go_on(place, tmp_path):
    output = tmp_path / "sweep"
    worker = start(place, output, "--trials", "3", "--set", "training.steps=600")
    while not (output / "trials" / "000" / "metrics.jsonl").exists():
        assert worker.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    worker.send_signal(signal.SIGINT)
    text, _ = worker.communicate(timeout=60)
    assert (
        worker.returncode == 130 and "stopped with 0 of 3 trials ended; go on with the same command, --resume" in text
    )


@pytest.mark.slow
def test_several_objectives_have_a_front_and_confirmed_trials_are_compared(place, tmp_path, mtl):
    output = tmp_path / "sweep"
    objectives = ("--objective", "tone.accuracy", "--objective", "near.mean-squared-error")
    flags = ("--trials", "5", *objectives, "--confirm-seeds", "2", "--best", "1")
    code, out, error = mtl(*command(place, output, *flags))
    assert code == 0, error
    found = json.loads((output / "sweep.json").read_text())
    assert found["directions"] == ["maximize", "minimize"]
    assert "front: trials/" in out and "trained to its end" in out + error
    folders = sorted(path.name for path in (output / "confirm").iterdir())
    front = [f"{trial.place.rpartition('/')[2]}" for trial in read_sweep(output).front()]
    assert folders == sorted({"recipe", *[name for name in front if name != "000"][:1]})
    assert sorted(path.name for path in (output / "confirm" / "recipe").iterdir() if path.is_dir()) == [
        "seed-9000",
        "seed-9001",
    ]
    assert ("still a little too large" in out + error) == (len(folders) == 2)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--sampler", "grid"), "--sampler: found"),
        (("--objective", "tone.f2"), "--objective tone.f2: tone has the metrics"),
        (("--objective", "score"), "--objective score: expected TASK.METRIC"),
        (("--storage", "sqlite:///x.db"), "SQLite loses trials"),
    ],
)
def test_mistakes_are_found_before_the_first_trial(place, tmp_path, mtl, flags, line):
    code, _, error = mtl(*command(place, tmp_path / "sweep", *flags))
    assert code == 2 and line in error
    assert not (tmp_path / "sweep" / "trials").exists()


def test_a_sweep_needs_a_space_and_a_folder_of_its_own(place, tmp_path, mtl):
    assert "--space" in mtl("sweep", "--config", place / "recipe.yaml").err
    (tmp_path / "mine.txt").write_text("x")
    refused = mtl(*command(place, tmp_path))
    assert refused.code == 2 and "is not the folder of a sweep" in refused.err


@pytest.mark.slow
def test_held_out_dev_rows_judge_the_best_trials_and_choose_none(place, tmp_path, mtl):
    output = tmp_path / "sweep"
    flags = ("--trials", "3", "--sampler", "random", "--confirm-seeds", "2", "--best", "1", "--holdout", "0.4")
    code, out, error = mtl(*command(place, output, *flags))
    assert code == 0, error
    results = json.loads((output / "trials" / "000" / "results.json").read_text())["tasks"]["tone"]
    chosen, held_out = (results[f"dev.{name}"]["accuracy"] for name in ("choose", "confirm"))
    assert results["dev"]["accuracy"]["value"] == chosen["value"]
    everything = len((place / "files" / "tone-dev.tsv").read_text().splitlines()) - 1
    assert chosen["n"] + held_out["n"] == everything and held_out["n"] == round(0.4 * everything)
    # The recipe of the best trial evaluates on all dev rows again.
    assert "choose" not in (output / "best.yaml").read_text()
    if len(list((output / "confirm").iterdir())) > 1:
        assert "took no part in the choice" in out + error


@pytest.mark.slow
def test_a_task_without_dev_rows_has_none_to_hold_out(place, tmp_path, mtl):
    flags = ("--trials", "1", "--holdout", "0.5", "--set", "tasks.same.dev=null")
    code, _, error = mtl(*command(place, tmp_path / "sweep", *flags))
    assert code == 0, error
    results = json.loads((tmp_path / "sweep" / "trials" / "000" / "results.json").read_text())["tasks"]
    assert "dev.confirm" in results["tone"] and not results.get("same")


def test_rows_that_cannot_be_divided_are_refused_before_the_first_trial(place, tmp_path, mtl):
    for flag, line in (
        ("tasks.tone.dev=10%", "tasks.tone.dev: found 10%, and --holdout divides the rows of a file"),
        ("tasks.tone.dev={a: x.tsv}", "this task has several sets"),
    ):
        code, _, error = mtl(*command(place, tmp_path / "sweep", "--holdout", "0.5", "--set", flag))
        assert code == 2 and line in error, error
