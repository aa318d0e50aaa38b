"""`mtl study` on small files: what is printed, what is refused, and that it can be stopped."""

import inspect
import os
import re
import signal

import pytest

from mtlcli.cli import console, options, study
from mtlcli.config.layers import dump
from mtlcli.studies.run import run_study
from small import small_values, write_files


@pytest.fixture
def recipe(tmp_path):
    """A recipe of three small tasks and four steps."""
    values = small_values(write_files(tmp_path / "files"))
    values["training"] |= {"steps": 4, "steps_per_epoch": 1}
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(values))
    return path


def test_a_study_prints_a_table_and_can_print_it_again(mtl, recipe, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    arguments = ("-c", recipe, "-t", "tone", "-t", "near", "-o", folder, "--seeds", "1,2", "--trials", "1")
    found = mtl("study", "pcgrad", *arguments)
    assert found.code == 0
    # one trial, and of each seed: two tasks alone, tuned weights, one method
    assert found.out.splitlines()[0] == f"9 runs of 4 steps in epochs of 1 on cpu; in {folder}"
    assert [line.split(":")[0] for line in found.err.splitlines()][:2] == [
        "1/9 trials/0/seed-1000",
        "2/9 single-task/tone/seed-1",
    ]
    lines = [line for line in found.out.splitlines() if re.match(r"\S+ +\d\.\d{3} ±", line)]
    assert [line.split()[0] for line in lines] == ["single-task", "static-tuned", "pcgrad"]
    assert max(map(len, lines)) <= 80
    again = mtl("study", "--table", folder)
    assert again.code == 0
    assert again.out in found.out
    with monkeypatch.context() as patch:
        patch.setattr(console.out, "_force_terminal", True)
        assert max(map(len, mtl("study", "--table", folder).out.splitlines())) <= 80
    marked = mtl("study", "--table", folder / "study.json", "--format", "markdown").out
    assert marked.startswith("| method | tone accuracy | near pearson | gain % | ms |\n")
    # the same call again trains nothing; another recipe in the same folder is refused
    again = mtl("study", "pcgrad", *arguments)
    assert (again.code, again.err) == (0, "")
    assert "; 9 done; in " in again.out
    refused = mtl("study", "pcgrad", *arguments, "--lr", "0.5")
    assert refused.code == 2
    assert "was made with another optimizer.lr (0.00175, now 0.5)" in refused.err


def test_an_interrupt_stops_after_the_step_and_says_how_to_go_on(mtl, recipe, tmp_path, monkeypatch):
    def interrupted(*arguments, **more):
        for number, event in enumerate(run_study(*arguments, **more)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    monkeypatch.setattr("mtlcli.studies.run.run_study", interrupted)
    arguments = ("study", "equal", "-c", recipe, "-o", tmp_path / "s", "--seeds", "1", "--no-tuned", "--no-single-task")
    stopped = mtl(*arguments)
    assert stopped.code == 130
    assert f"stopped with 0 of 1 runs done; resume with the same command and --output {tmp_path / 's'}" in stopped.out
    monkeypatch.undo()
    finished = mtl(*arguments)
    assert finished.code == 0
    assert re.search(r"^equal +\d\.\d{3}", finished.out, re.MULTILINE)


def test_a_run_that_fails_is_an_error_after_the_table(mtl, recipe, tmp_path):
    (tmp_path / "wild.yaml").write_text("optimizer: {lr: 1e30, head_lr: 1e30, clip: null}\n")
    arguments = ("-c", recipe, "-o", tmp_path / "s", "--seeds", "1", "--no-tuned", "--no-single-task", "-q")
    found = mtl("study", tmp_path / "wild.yaml", "equal", *arguments)
    assert found.code == 2
    assert re.search(r"^wild +- .* 0 \(1 failed\)", found.out, re.MULTILINE)
    assert found.err.startswith("error: wild/seed-1: step ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "METHODS: name at least one"),
        (["pcgard", "uncertainy"], 'did you mean "pcgrad"'),
        (["equal", "--seeds", "1,x"], "--seeds 1,x: expected whole numbers"),
        (["equal", "--seeds", "2,2"], "--seeds 2,2: seed 2 is listed twice"),
        (["equal", "--format", "html"], '--format: found "html"; expected text or markdown'),
        (["--table", "nowhere"], "nowhere: not found"),
    ],
)
def test_what_cannot_be_is_one_line_for_each_mistake(mtl, recipe, arguments, message):
    found = mtl("study", *arguments, "-c", recipe)
    assert found.code == 2
    assert message in found.err
    assert all(line.startswith("error: ") for line in found.err.splitlines())


def test_the_folder_of_something_else_is_left_alone(mtl, recipe, tmp_path):
    found = mtl("study", "equal", "-c", recipe, "-o", tmp_path / "files", "--overwrite")
    assert found.code == 2
    assert "is not the folder of a study" in found.err
    assert list((tmp_path / "files").iterdir())


def test_study_has_the_flags_of_train_that_do_not_belong_to_a_method_or_a_run():
    flags = set(options.FLAGS) & set(inspect.signature(study.study).parameters)
    assert set(options.FLAGS) - flags == {"seed", "patience", "regularizer"}
