"""`mtl compare`: what it prints."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from mtlcli.runs.seeds import Group, write_group


def improve(run) -> None:
    """Every row of `tone` right."""
    path = run / "predictions" / "tone.dev.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"label": row["target"]}) + "\n" for row in rows))


@pytest.fixture
def better(run, tmp_path, monkeypatch):
    """A copy of the run that is right everywhere in `tone`; both are called by short names."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/equal", ignore=shutil.ignore_patterns("*.train.jsonl"))  # another test may have left one
    improve(shutil.copytree("runs/equal", tmp_path / "runs" / "pcgrad"))
    return "runs/pcgrad"


def test_a_legend_a_table_and_the_finding_in_words(mtl, better):
    code, out, _ = mtl("compare", "runs/equal", better, "--resamples", 500)
    assert code == 0
    lines = out.splitlines()
    assert lines[:4] == ["A  runs/equal", "B  runs/pcgrad", "", "B against A on dev"]
    assert lines[4].split() == ["task", "metric", "A", "B", "B", "-", "A", "interval", "p", "n"]
    row = lines[5].split()
    assert row[:2] == ["tone", "accuracy"] and row[3] == "1.0000" and row[-1] == "30"
    gain = float(row[3]) - float(row[2])
    assert f"tone: B is better than A by {gain:.4f}" in lines
    assert "stars: no evidence of a difference between A and B" in lines
    assert "Both are corrected for 4 comparisons (Holm), at 5 % for all together." in lines
    assert lines[-1] == "Single runs: this is about the rows, not about other seeds (mtl train --seeds)."
    assert max(map(len, lines)) <= 80


def test_json_holds_everything_and_is_all_there_is_on_standard_output(mtl, better):
    code, out, _ = mtl("compare", "runs/equal", better, "--json", "--resamples", 500, "-t", "tone", "--metric", "all")
    assert code == 0
    found = json.loads(out)
    assert [run["path"] for run in found["runs"]] == ["runs/equal", "runs/pcgrad"]
    one = found["compared"][0]
    assert (one["task"], one["metric"], one["better"], one["n"]) == ("tone", "accuracy", 1, 30)
    assert one["difference"] == pytest.approx(one["other_value"] - one["baseline_value"])
    assert one["low"] <= one["difference"] <= one["high"]
    assert one["p"] <= one["p_holm"] and one["level"] == pytest.approx(0.975)  # the smaller p of two


def test_quiet_json_is_one_line_and_nothing_else(mtl, better):
    _, out, err = mtl("compare", "runs/equal", better, "--json", "-q", "--resamples", 100)
    assert len(out.splitlines()) == 1 and err == ""


def test_three_runs_make_two_tables_against_the_first(mtl, better):
    shutil.copytree("runs/equal", "runs/again")
    out = mtl("compare", "runs/equal", better, "runs/again", "-t", "tone", "--resamples", 100).out
    assert "C  runs/again" in out
    assert "B against A on dev" in out and "C against A on dev" in out
    assert "tone: no evidence of a difference between A and C" in out.splitlines()


def test_a_group_shows_its_seeds(mtl, better):
    made = Group(Path("runs/group"), (7, 8))
    for one in made.runs:
        improve(shutil.copytree("runs/equal", one))
    write_group(made)
    lines = mtl("compare", "runs/equal", "runs/group", "--resamples", 100).out.splitlines()
    assert lines[1] == "B  runs/group (2 seeds: 7, 8)"
    assert "Means over seeds; intervals and p from 100 resamples of rows and seeds." in lines


def test_an_error_is_told_without_a_table(mtl, better):
    code, out, err = mtl("compare", "runs/equal", better, "--split", "train")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"error: {run}: has no predictions of train; make them with: mtl eval {run} --split train"
        for run in ("runs/equal", "runs/pcgrad")
    ]


def test_the_advice_of_that_error_works(mtl, better):
    for run in ("runs/equal", better):
        assert mtl(*shlex.split(f"eval {run} --split train --resamples 10")).code == 0
    assert mtl("compare", "runs/equal", better, "--split", "train", "--resamples", 100).code == 0


def test_the_example_of_the_help_runs(mtl, better):
    assert mtl("compare", "runs/equal", "runs/pcgrad", "--resamples", 100).code == 0
    assert "mtl compare runs/equal runs/pcgrad" in mtl("compare", "--help").out
