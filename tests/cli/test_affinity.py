"""`mtl affinity` on small files: its cost, its files, what is refused, and that it can be stopped and added to."""

import inspect
import json
import os
import re
import signal

import pytest

from mtlcli.affinity.results import PAGE, SUMMARY, UNITS, read_affinity
from mtlcli.cli import affinity, options
from mtlcli.config.layers import dump
from mtlcli.errors import MtlError
from mtlcli.studies.run import run_study
from sealed import edit
from small import small_values, write_files


@pytest.fixture
def recipe(tmp_path):
    """A recipe of three small tasks and four steps."""
    values = small_values(write_files(tmp_path / "files"))
    values["training"] |= {"steps": 4, "steps_per_epoch": 2}
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(values))
    return path


def arguments(recipe, folder, *more):
    return ("affinity", "-c", recipe, "-o", folder, "--updates", "10", "--batches", "4", *more)


def test_the_cost_is_printed_before_anything_is_written(mtl, recipe, tmp_path):
    found = mtl(*arguments(recipe, tmp_path / "a", "--measures", "data,gradients,gain", "--seeds", "1,2", "--cost"))
    assert found.code == 0
    rows = {line[:20].strip(): line[20:].split() for line in found.out.splitlines()}
    # alone 3 tasks x 2 seeds x 4 updates; 3 pairs x 2 seeds x 4 updates; gradients at 3 times, 4 batches of 3 tasks
    assert rows["each task alone"][:2] == ["6", "24"]
    assert rows["pairs"][:2] == ["6", "24"]
    assert rows["gradients (at most)"][:2] == ["-", "36"]
    assert re.search(r"minutes on cpu in all, .* forward and backward pass of a batch: tone \d+ ms, same", found.out)
    assert not (tmp_path / "a" / UNITS).exists()


def test_cheap_measures_write_a_summary_and_a_page_and_are_not_made_again(mtl, recipe, tmp_path):
    folder = tmp_path / "a"
    first = mtl(*arguments(recipe, folder, "--measures", "data,gradients"))
    assert first.code == 0
    assert "gradient-cosine: gradient cosine, debiased" in first.out
    assert max(len(line) for line in first.out.splitlines() if not line.startswith(("wrote", "0."))) <= 90
    found = read_affinity(folder)
    assert found.tasks == ["tone", "same", "near"]
    assert {measure.name for measure in found.measures} >= {
        "vocabulary",
        "label-overlap",
        "shared-rows",
        "gradient-cosine",
    }
    assert found.proposal is None
    assert found.labels["tone"].classes == 2
    page = (folder / PAGE).read_text()
    assert "<svg" in page
    assert "src=" not in page
    before = (folder / UNITS).read_bytes()
    again = mtl(*arguments(recipe, folder, "--measures", "data,gradients", "-q"))
    assert again.code == 0
    assert (folder / UNITS).read_bytes() == before
    assert read_affinity(folder).measures == found.measures
    assert again.out.splitlines()[0].split() == ["labelled", "entropy", "/", "kurtosis", "excess", "kurtosis"]


@pytest.mark.slow
def test_gains_are_measured_stopped_and_extended_by_a_seed(mtl, recipe, tmp_path, monkeypatch):
    folder = tmp_path / "a"
    measures = ("--measures", "gain,transfer,logme")

    def interrupted(*given, **more):
        for number, event in enumerate(run_study(*given, **more)):
            if number == 10:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    with monkeypatch.context() as patch:
        patch.setattr("mtlcli.affinity.run.run_study", interrupted)
        stopped = mtl(*arguments(recipe, folder, *measures, "--seeds", "1"))
    assert stopped.code == 130
    assert stopped.out.splitlines()[-1] == f"stopped; go on with the same command and --output {folder}"
    assert (folder / SUMMARY).is_file()
    finished = mtl(*arguments(recipe, folder, *measures, "--seeds", "1"))
    assert finished.code == 0
    assert "12/12 transfer/near-same/seed-1" in finished.err
    found = read_affinity(folder)
    assert {measure.name for measure in found.measures} == {"logme", "gain", "transfer"}
    assert found.proposal.source == "gain"
    assert found.proposal.share is None
    assert "3 tasks: too few for a correlation" in found.verdict
    two = mtl(*arguments(recipe, folder, *measures, "--seeds", "1,2"))
    assert two.code == 0
    assert two.err.count("seed-2") == 12
    assert "seed-1" not in two.err
    confirmed = mtl(*arguments(recipe, folder, *measures, "--seeds", "1,2", "--confirm"))
    assert confirmed.code == 0
    assert "trained again, one model: mean gain" in confirmed.out
    assert read_affinity(folder).proposal.confirmed["these groups"].n == 2
    cell = read_affinity(folder).measure("gain").cells[0][1]
    assert (cell.n, cell.low is not None) == (2, True)
    assert not list((folder / "runs" / "pair").glob("*/*/encoder"))
    assert len(list((folder / "runs" / "single-task").glob("*/seed-[12]/encoder"))) == 6
    assert not list((folder / "runs" / "group").glob("*/*/encoder"))


def test_a_folder_of_other_settings_is_refused_and_can_be_replaced(mtl, recipe, tmp_path):
    folder = tmp_path / "a"
    assert mtl(*arguments(recipe, folder, "--measures", "data")).code == 0
    (folder / "mine.txt").write_text("keep")
    other = mtl("affinity", "-c", recipe, "-o", folder, "--updates", "20", "--measures", "data", "--lr", "1e-4")
    assert other.code == 2
    assert "was made with other settings: optimizer.lr (was" in other.err
    assert "--updates (was 10, now 20)" in other.err
    replaced = mtl("affinity", "-c", recipe, "-o", folder, "--updates", "20", "--measures", "data", "--overwrite")
    assert replaced.code == 0
    assert "kept, because mtl affinity did not write it: mine.txt" in replaced.err
    assert read_affinity(folder).settings["updates"] == 20


def test_a_half_written_line_is_made_again_and_a_damaged_summary_is_named(mtl, recipe, tmp_path):
    folder = tmp_path / "a"
    assert mtl(*arguments(recipe, folder, "--measures", "data")).code == 0
    lines = (folder / UNITS).read_text()
    (folder / UNITS).write_text(lines[:-20])
    assert mtl(*arguments(recipe, folder, "--measures", "data")).code == 0
    assert (folder / UNITS).read_text() == lines
    edit(folder / SUMMARY, lambda content: content.update(verdict="no"))
    assert read_affinity(folder).verdict == "no"
    content = json.loads((folder / SUMMARY).read_text())
    (folder / SUMMARY).write_text(json.dumps(content | {"verdict": "yes"}))
    with pytest.raises(MtlError, match="damaged"):
        read_affinity(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--measures", "gradient"), '"gradient" is not a measure; did you mean "gradients"?'),
        (("--budget", "time"), '--budget: found "time"; expected rows or compute'),
        (("-t", "tone"), "expected two tasks or more, found tone"),
        (("--measures", "data", "--confirm"), "--confirm: compares gains, so --measures must have gain"),
        (("--seeds", "1,1"), "--seeds 1,1: seed 1 is listed twice"),
        (
            ("--set", "architecture=soft-sharing"),
            "they share no trainable parameter; choose among data, gain, transfer and logme",
        ),
    ],
)
def test_what_cannot_be_is_one_line(mtl, recipe, tmp_path, given, message):
    found = mtl(*arguments(recipe, tmp_path / "a", *given))
    assert found.code == 2
    assert message in found.err
    assert found.err.count("error: ") == 1
    assert not (tmp_path / "a" / UNITS).exists()


def test_the_folder_of_something_else_is_left_alone(mtl, recipe, tmp_path):
    found = mtl(*arguments(recipe, tmp_path / "files", "--overwrite"))
    assert found.code == 2
    assert "is not a folder of mtl affinity" in found.err
    assert list((tmp_path / "files").iterdir())


def test_affinity_has_the_flags_of_train_that_it_does_not_set_itself():
    flags = set(options.FLAGS) & set(inspect.signature(affinity.affinity).parameters)
    assert set(options.FLAGS) - flags == {"scheduler", "regularizer", "seed", "select_by", "patience"}
