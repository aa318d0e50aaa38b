"""`mtl check`: the arguments of `mtl train`, warnings, and whether the output folder can be used."""

from pathlib import Path

import pytest

from mtlcli.config.layers import dump
from small import small_values, write_files


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe of one task and a few steps, in the current folder."""
    monkeypatch.chdir(tmp_path)
    values = small_values(write_files(tmp_path / "files"))
    values["tasks"] = {"tone": values["tasks"]["tone"]}
    values["training"]["steps"] = 4
    Path("recipe.yaml").write_text(dump(values))
    return "recipe.yaml"


def entries(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_run_without_problems_is_ok_and_nothing_is_written(mtl, recipe, tmp_path):
    before = entries(tmp_path)
    code, out, err = mtl("check", "-c", recipe, "--strict", "-o", "runs/new")
    assert code == 0, err
    assert out.splitlines()[-2:] == ["output: runs/new would be created", "OK: no problems found"]
    assert entries(tmp_path) == before


def test_what_training_would_do_to_the_output_is_said(mtl, recipe):
    assert mtl("train", "-c", recipe, "-o", "run", "-q").code == 0
    refused = mtl("check", "-c", recipe, "-o", "run")
    assert refused.code == 2 and "add --resume" in refused.err
    assert "output: run would be replaced" in mtl("check", "-c", recipe, "-o", "run", "--overwrite").out
    assert "output: run is already finished" in mtl("check", "-o", "run", "--resume").out
    longer = mtl("check", "-o", "run", "--resume", "--steps", 6).out
    assert "note: changed on resuming: training.steps: was 4, now 6" in longer
    assert "output: run would be resumed after step 4" in longer
    other = mtl("check", "-o", "run", "--resume", "--lr", 0.1)
    assert other.code == 2 and "--resume: optimizer.lr: was" in other.err


def test_the_runs_of_several_seeds_are_checked_too(mtl, recipe, tmp_path):
    new = mtl("check", "-c", recipe, "--seeds", "1,2", "-o", "group")
    assert new.code == 0 and "output: group: 2 seeds, 0 finished, 2 to train" in new.out
    assert not (tmp_path / "group").exists()
    assert mtl("train", "-c", recipe, "--seeds", "1", "-o", "group", "-q").code == 0
    more = mtl("check", "-c", recipe, "--seeds", "1,2", "--resume", "-o", "group")
    assert "output: group: 2 seeds, 1 finished, 1 to train" in more.out
    assert mtl("check", "-c", recipe, "--seeds", "1,1").code == 2


def warned(mtl, files: Path, *arguments: object) -> list[str]:
    """The warnings about a task on these files; `--strict` makes the exit code 1, and only that."""
    words = (
        "check",
        "-t",
        f"tone={files / 'train.tsv'},{files / 'dev.tsv'}",
        "--set",
        "tasks.tone.kind=classification",
    )
    small = ("--set", "encoder.dim=16", "--set", "encoder.vocabulary=100", "--steps", 2, "--device", "cpu")
    plain = mtl(*words, *small, *arguments)
    assert plain.code == 0, plain.err
    warnings = [line.removeprefix("warning: ") for line in plain.err.splitlines() if line.startswith("warning: ")]
    assert plain.out.splitlines()[-1] == f"{len(warnings)} warning{'' if len(warnings) == 1 else 's'}"
    strict = mtl(*words, *small, *arguments, "--strict", "-q")
    assert (strict.code, strict.out) == (1, "")
    assert strict.err.count("warning: ") == len(warnings)
    return warnings


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))


ROWS = [(f"word{index} is {'good' if index % 2 else 'bad'}", "yes" if index % 2 else "no") for index in range(40)]


def test_dev_rows_that_are_the_training_rows_are_a_warning(mtl, tmp_path):
    write(tmp_path / "train.tsv", ROWS)
    write(tmp_path / "dev.tsv", ROWS)
    expected = "tone: all 40 dev rows are training rows, so dev metrics do not measure generalization"
    assert warned(mtl, tmp_path) == [expected]


def test_as_many_classes_as_rows_are_a_warning(mtl, tmp_path):
    write(tmp_path / "train.tsv", [(f"word{index} is good", f"label{index}") for index in range(200)])
    write(tmp_path / "dev.tsv", [(f"other{index} was bad", f"label{index}") for index in range(20)])
    warnings = warned(mtl, tmp_path)
    assert len(warnings) == 1 and warnings[0].startswith("tone train: 200 rows have 200 classes")


def test_an_empty_dev_file_is_a_warning(mtl, tmp_path):
    write(tmp_path / "train.tsv", ROWS)
    (tmp_path / "dev.tsv").write_text("text\tlabel\n")
    warnings = warned(mtl, tmp_path)
    assert any("no usable row for tasks.tone (dev)" in warning for warning in warnings)
    assert warnings[-1].startswith("tone: no dev rows") and warnings[-1].endswith(
        "hold some out with --set tasks.tone.dev=10%"
    )
