"""`mtl table`: results of runs side by side."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mtlcli.runs.seeds import Group, write_group


def write(folder: Path, split: str = "dev", **tasks: dict[str, float]) -> Path:
    """A finished run with these values."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        task: {split: {metric: {"value": value, "low": 0, "high": 1, "n": 9} for metric, value in metrics.items()}}
        for task, metrics in tasks.items()
    }
    (folder / "results.json").write_text(json.dumps({"tasks": found}))
    return folder


@pytest.fixture
def two(tmp_path, monkeypatch):
    """runs/equal and runs/pcgrad; the second one was not trained on sts."""
    monkeypatch.chdir(tmp_path)
    write(Path("runs/equal"), sst={"accuracy": 0.5, "macro-f1": 0.4}, sts={"pearson": 0.8, "spearman": 0.7})
    write(Path("runs/pcgrad"), sst={"accuracy": 0.46, "macro-f1": 0.3})
    return "runs/equal", "runs/pcgrad"


def group(folder: str, *values: float) -> str:
    """Runs with several seeds of one task."""
    made = Group(Path(folder), tuple(range(1, len(values) + 1)))
    for run, value in zip(made.runs, values, strict=True):
        write(run, sst={"accuracy": value}, sts={"pearson": 0.5})
    write_group(made)
    return folder


def test_a_row_for_each_run_with_its_primary_metrics_and_their_mean(mtl, two):
    code, out, err = mtl("table", *two)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["run", "sst", "accuracy", "sts", "pearson", "mean"]
    assert lines[1] == ["runs/equal", "0.500", "0.800", "0.650"]  # (.5 + .8) / 2
    assert lines[2] == ["runs/pcgrad", "0.460", "-", "-"]


def test_a_table_that_is_too_wide_drops_the_folder_that_all_runs_share(mtl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = "experiments/2026-11/all-tasks-with-a-long-name"
    names = [f"{folder}/equal", f"{folder}/pcgrad/second"]
    for name in names:
        write(Path(name), sst={"accuracy": 0.5}, quora={"accuracy": 0.6}, sts={"pearson": 0.8})
    lines = mtl("table", *names).out.splitlines()
    assert lines[0] == f"runs in {folder}"
    assert [line.split()[0] for line in lines[1:]] == ["run", "equal", "pcgrad/second"]
    assert len(lines) == 4 and max(map(len, lines)) <= 80  # nothing is folded
    assert mtl("table", *names, "--format", "csv").out.splitlines()[1].startswith(f"{folder}/equal,")


def test_markdown_puts_numbers_to_the_right(mtl, two):
    assert mtl("table", *two, "--format", "markdown", "--digits", 2).out.splitlines() == [
        "| run | sst accuracy | sts pearson | mean |",
        "| --- | ---: | ---: | ---: |",
        "| runs/equal | 0.50 | 0.80 | 0.65 |",
        "| runs/pcgrad | 0.46 | - | - |",
    ]


def test_csv_has_all_digits_and_leaves_empty_what_is_not_there(mtl, two):
    write(Path("runs/equal"), sst={"accuracy": 1 / 3}, sts={"pearson": 0.8})
    rows = list(csv.reader(mtl("table", *two, "--format", "csv").out.splitlines()))
    assert rows[0] == ["run", "sst accuracy", "sts pearson", "mean"]
    assert float(rows[1][1]) == 1 / 3
    assert rows[2] == ["runs/pcgrad", "0.46", "", ""]


def test_seeds_make_one_row_of_means_and_deviations(mtl, two):
    name = group("runs/group", 0.4, 0.5, 0.6)  # mean .5, deviation sqrt((.01 + 0 + .01) / 2) = .1
    lines = mtl("table", two[0], name, "--format", "markdown").out.splitlines()
    assert lines[0] == "| run | seeds | sst accuracy | sts pearson | mean |"
    assert lines[2] == "| runs/equal | 1 | 0.500 | 0.800 | 0.650 |"
    # the mean over tasks is that of each seed: .45, .5, .55
    assert lines[3] == "| runs/group | 3 | 0.500 ±0.100 | 0.500 ±0.000 | 0.500 ±0.050 |"
    rows = list(csv.reader(mtl("table", name, "--format", "csv").out.splitlines()))
    assert rows[0][:4] == ["run", "seeds", "sst accuracy", "sst accuracy deviation"]
    assert float(rows[1][3]) == pytest.approx(0.1)


def test_other_metrics_come_without_a_mean(mtl, two):
    lines = mtl(
        "table", two[0], "--metric", "spearman", "--metric", "accuracy", "--format", "markdown"
    ).out.splitlines()
    assert lines[0] == "| run | sst accuracy | sts spearman |"
    every = mtl("table", two[0], "--metric", "all", "--format", "markdown").out.splitlines()
    assert every[0] == "| run | sst accuracy | sst macro-f1 | sts pearson | sts spearman |"


def test_there_is_no_mean_with_a_metric_that_has_no_worst_value(mtl, two):
    write(Path("runs/equal"), sst={"accuracy": 0.5}, sts={"mean-squared-error": 1.2})
    assert mtl("table", two[0], "--format", "csv").out.splitlines()[0] == "run,sst accuracy,sts mean-squared-error"
    code, _, err = mtl("table", two[0], "--normalized")
    assert code == 2 and "mean-squared-error has no bounds" in err


def test_normalized_values_run_from_0_to_1(mtl, two):
    lines = mtl("table", two[0], "--normalized", "--format", "markdown").out.splitlines()
    assert lines[0] == "| run | sst accuracy | sts pearson (0 to 1) | mean |"
    assert lines[2] == "| runs/equal | 0.500 | 0.900 | 0.700 |"  # (.8 + 1) / 2 = .9; (.5 + .9) / 2 = .7


def test_published_numbers_stand_beside_ours_and_name_the_runs(mtl, two):
    Path("paper.csv").write_text("run,row,SST in it\nruns/pcgrad,surgery,.475\nruns/later,more,.5 or so\n")
    lines = mtl("table", "--published", "paper.csv", "--allow-missing", "--format", "markdown").out.splitlines()
    assert lines == [
        "| run | row | SST in it | sst accuracy |",
        "| --- | --- | ---: | ---: |",
        "| runs/pcgrad | surgery | .475 | 0.460 |",
        "| runs/later | more | .5 or so | not run yet |",
    ]
    refused = mtl("table", "--published", "paper.csv").err.splitlines()
    assert refused[0] == "error: runs/later: there is no such run folder"
    assert refused[1] == "error: paper.csv names these runs; --allow-missing keeps a row for each"
    other = mtl("table", two[0], "--published", "paper.csv", "--format", "markdown").out.splitlines()
    assert other[2].startswith("| runs/equal |  |  | 0.500 |")


def test_before_any_run_there_is_one_column_that_says_so(mtl, two):
    out = mtl("table", "runs/a", "runs/b", "--allow-missing", "--format", "markdown").out
    assert out.splitlines()[2:] == ["| runs/a | not run yet |", "| runs/b | not run yet |"]


def test_all_that_is_not_there_is_told_at_once_with_what_to_do(mtl, two):
    Path("runs/begun").mkdir()
    Path("runs/begun/config.yaml").touch()
    Path("runs/both").mkdir()
    Path("runs/both/ensemble.json").touch()
    Path("runs/empty").mkdir()
    write(Path("runs/damaged"))
    Path("runs/damaged/results.json").write_text("{")
    Path("runs/study").mkdir()
    Path("runs/study/study.json").touch()
    names = ["runs/begun", "runs/both", "runs/empty", "runs/damaged", "runs/none", "runs/study"]
    code, out, err = mtl("table", two[0], *names)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: runs/begun: not finished; resume with: mtl train --resume --output runs/begun",
        "error: runs/both: not measured yet: mtl eval runs/both",
        "error: runs/empty: not a run folder (no results.json); expected a folder that `mtl train --output` made",
        "error: runs/damaged/results.json: damaged (it is not JSON); write it again: mtl train --resume --output runs/damaged",
        "error: runs/none: there is no such run folder",
        "error: runs/study: is a study; expected a run or a method's runs in it (its table: mtl study --table runs/study)",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/equal", "--metric", "acuracy"], 'did you mean "accuracy"?'),
        (["runs/equal", "--split", "tets"], "runs/equal/results.json: has no results of tets; there are: dev"),
        (["runs/equal", "--format", "html"], 'found "html"; expected text, markdown or csv'),
        ([], "expected one or more run folders, or --published"),
        (["--published", "none.csv"], "none.csv: cannot be read as published numbers: No such file or directory"),
        (["--published", "uneven.csv"], "uneven.csv: runs/a: found 3 cells; expected 2"),
        (["--published", "empty.csv"], "empty.csv: cannot be read as published numbers: it is empty"),
    ],
)
def test_a_mistake_is_told_in_one_line(words, message, mtl, two):
    Path("uneven.csv").write_text("run,SST\nruns/a,.5,.6\n")
    Path("empty.csv").touch()
    code, out, err = mtl("table", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and message in err


def test_a_real_run_and_the_results_of_eval_are_read(mtl, run, tmp_path):
    stored = json.loads((run / "results.json").read_text())["tasks"]["tone"]["dev"]["accuracy"]["value"]
    measured = tmp_path / "measured"
    measured.mkdir()
    (measured / "results.json").write_text(mtl("eval", run, "--json", "-q", "--resamples", 10).out)
    lines = mtl("table", run, measured, "--format", "csv").out.splitlines()
    assert lines[1].split(",")[1:] == lines[2].split(",")[1:]
    assert float(lines[1].split(",")[1]) == stored
    assert mtl("table", measured, "--split", "test").code == 0


def test_the_library_needs_no_torch():
    script = "import sys, mtlcli.evaluation.table; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
