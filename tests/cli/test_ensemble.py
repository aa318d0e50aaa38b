"""`mtl ensemble`, and what eval and predict make of its folder."""

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import pytest

import preloaded
from trained import other

LINES = b"the fine lamp\nthe poor stool pie\n"
PAIRS = b"the fine lamp\tthe poor lamp\nthe pie\tthe pie\n"


@pytest.fixture
def ensemble(mtl, run, tmp_path) -> Path:
    folder = tmp_path / "ensemble"
    assert mtl("ensemble", run, other(), "-q", "-o", folder) == (0, "", "")
    return folder


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def last_error(ended) -> str:
    assert ended.code == 2
    assert ended.out == ""
    return ended.err.splitlines()[-1]


def test_a_table_says_who_has_a_say_and_why(mtl, run, tmp_path, monkeypatch):
    other()
    monkeypatch.chdir(run.parent)
    best = max(
        json.loads(Path(name, "results.json").read_text())["tasks"]["near"]["dev"]["pearson"]["value"]
        for name in ("run", "other")
    )
    code, out, err = mtl("ensemble", "run", "other", "--threshold", f"near={best}", "-o", tmp_path / "ensemble")
    assert code == 0 and err == ""
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["task", "metric", "run", "dev"]
    assert [line[:3] for line in lines if line[:1] == ["tone"]] == [["tone", "accuracy", "run"]]
    near = lines[[line[0] for line in lines].index("near") :][:2]
    assert sum("left out, below" in " ".join(line) for line in near) == 1
    assert " ".join(lines[-1]) == f"saved in {tmp_path}/ensemble; measure it with: mtl eval {tmp_path}/ensemble"
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_eval_measures_an_ensemble_like_a_run(mtl, ensemble):
    code, out, _ = mtl("eval", ensemble, "--json", "--resamples", 20)
    assert code == 0
    found = json.loads(out)["tasks"]
    assert set(found) == {"tone", "stars", "same", "near"}
    assert set(found["tone"]) == {"dev", "test"}
    one = found["near"]["dev"]["pearson"]
    assert one["n"] == 30 and one["low"] <= one["value"] <= one["high"]
    assert len((ensemble / "predictions" / "tone.dev.jsonl").read_text().splitlines()) == 30


def test_a_measured_ensemble_stands_in_a_table_until_it_is_replaced(mtl, run, ensemble, tmp_path):
    (tmp_path / "rows.csv").write_text("sentence,label\nthe fine lamp,good\n")
    assert mtl("eval", ensemble, "--json", "-t", f"tone={tmp_path}/rows.csv").code == 0
    assert "not measured yet: mtl eval" in last_error(mtl("table", ensemble))  # those rows were not its own
    found = {}
    for question in (
        ["-t", "tone", "--split", "dev"],
        ["-t", "same", "--split", "dev"],
        ["-t", "tone", "--split", "test"],
    ):
        found[question[1], question[3]] = json.loads(mtl("eval", ensemble, "--json", *question).out)["tasks"]
    kept = json.loads((ensemble / "results.json").read_text())["tasks"]
    assert kept == {
        "tone": found["tone", "dev"]["tone"] | found["tone", "test"]["tone"],
        "same": found["same", "dev"]["same"],
    }
    head, _, row = mtl("table", ensemble, "--format", "markdown", "--digits", 15).out.splitlines()
    assert head == "| run | tone accuracy | same accuracy | mean |"
    values = [kept[task]["dev"]["accuracy"]["value"] for task in ("tone", "same")]
    assert [float(cell) for cell in row.split("|")[2:4]] == pytest.approx(values, abs=1e-14)
    assert mtl("ensemble", run, other(), "-q", "-o", ensemble, "--overwrite").code == 0
    assert "not measured yet: mtl eval" in last_error(mtl("table", ensemble))


def test_damaged_results_of_an_ensemble_are_written_anew(mtl, ensemble):
    (ensemble / "results.json").write_text("{")
    assert last_error(mtl("table", ensemble)).endswith(f"damaged (it is not JSON); write it again: mtl eval {ensemble}")
    assert mtl("eval", ensemble, "-q", "-t", "tone").code == 0
    assert mtl("table", ensemble).code == 0


def test_eval_of_a_run_leaves_the_results_of_its_training_alone(mtl, run):
    before = (run / "results.json").read_bytes()
    assert mtl("eval", run, "-q", "--resamples", 20).code == 0
    assert (run / "results.json").read_bytes() == before


def test_a_task_of_one_run_measures_as_in_that_run(mtl, run, ensemble):
    both = [json.loads(mtl("eval", one, "--json", "-t", "stars").out)["tasks"] for one in (run, ensemble)]
    assert both[0] == both[1]


def test_eval_of_other_rows_and_other_columns(mtl, ensemble, tmp_path):
    (tmp_path / "rows.csv").write_text("review,grade\nthe fine lamp,good\nthe awful lamp,bad\n")
    flags = [part for key in ("text=review", "label=grade") for part in ("--set", f"tasks.tone.{key}")]
    code, out, _ = mtl("eval", ensemble, "--json", "-t", f"tone={tmp_path}/rows.csv", *flags)
    assert code == 0
    assert json.loads(out)["tasks"]["tone"]["dev"]["accuracy"]["n"] == 2
    (tmp_path / "rows.csv").write_text("review,grade\nthe fine lamp,splendid\n")
    assert "'splendid'" in mtl("eval", ensemble, "--json", "-t", f"tone={tmp_path}/rows.csv", *flags).err


def test_predictions_are_the_mean_of_those_of_the_runs(mtl, run, ensemble):
    joined, first, second = (
        rows(mtl("predict", one, "-t", "tone", "-q", stdin=LINES).out) for one in (ensemble, run, other())
    )
    for ours, a, b in zip(joined, first, second, strict=True):
        assert list(ours["tone"]["probabilities"]) == ["bad", "good"]  # as the first run has them
        for label, p in ours["tone"]["probabilities"].items():
            theirs = (a["tone"]["probabilities"][label] + b["tone"]["probabilities"][label]) / 2
            assert p == pytest.approx(theirs, abs=2e-6)


def test_the_first_line_decides_which_tasks_it_is_for(mtl, ensemble):
    assert [list(row) for row in rows(mtl("predict", ensemble, stdin=LINES).out)] == [["tone", "stars"]] * 2
    ended = mtl("predict", ensemble, stdin=PAIRS)
    assert [list(row) for row in rows(ended.out)] == [["same", "near"]] * 2
    assert ended.err.splitlines()[0] == f"{ensemble} (2 runs): predicting same, near"


@pytest.mark.parametrize(("kind", "mark"), [("csv", ","), ("tsv", "\t")])
def test_tables_out_have_a_column_per_label(mtl, ensemble, kind, mark):
    out = mtl("predict", ensemble, "--format", kind, "-q", stdin=PAIRS).out
    found = list(csv.DictReader(io.StringIO(out), delimiter=mark))
    assert list(found[0]) == ["same.label", "same.probability.0", "same.probability.1", "near.score"]
    assert len(found) == 2


@pytest.mark.slow
def test_a_slow_pipe_is_answered_line_by_line(ensemble):
    command = [*preloaded.python(), "-m", "mtlcli", "predict", str(ensemble), "-t", "tone", "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as process:
        for text in (b"the pie\n", b"the fine lamp\n"):
            process.stdin.write(text)
            process.stdin.flush()
            assert b"label" in process.stdout.readline()  # hangs here if answers wait for more input
        process.stdin.close()
        assert process.wait() == 0


def test_rows_laid_out_without_header_are_read_by_every_run(mtl, ensemble, tmp_path):
    (tmp_path / "rows.tsv").write_text("7\tthe fine lamp\n8\tthe pie\n")
    found = rows(
        mtl("predict", ensemble, tmp_path / "rows.tsv", "--no-header", "--text", "1", "--columns", "none", "-q").out
    )
    assert found == rows(mtl("predict", ensemble, "-q", stdin=b"the fine lamp\nthe pie\n").out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--threshold", "tone"), "--threshold tone: expected TASK=VALUE, such as sst=0.5"),
        (("--threshold", "tone=high"), "--threshold tone=high: expected TASK=VALUE, such as sst=0.5"),
        (("--threshold", "tone=nan"), "--threshold tone=nan: expected TASK=VALUE, such as sst=0.5"),
        (
            ("--threshold", "tone=.1", "--threshold", "tone=.2"),
            "--threshold tone=.2: the task tone is named twice; give one value",
        ),
        (("--threshold", "tome=.1"), '--threshold tome=0.1: no run has such a task; did you mean "tone"?'),
    ],
)
def test_a_wrong_threshold_is_one_line_and_nothing_is_written(mtl, run, tmp_path, flags, message):
    assert last_error(mtl("ensemble", run, other(), "-o", tmp_path / "new", *flags)) == f"error: {message}"
    assert not (tmp_path / "new").exists()


def test_an_ensemble_that_is_there_is_replaced_when_asked(mtl, run, ensemble):
    again = ("ensemble", other(), run, "-o", ensemble)
    assert last_error(mtl(*again)) == f"error: --output: {ensemble} holds an ensemble: add --overwrite to replace it"
    assert mtl(*again, "--overwrite").code == 0
    (row,) = rows(mtl("predict", ensemble, "-t", "tone", "-q", stdin=b"the pie\n").out)
    assert list(row["tone"]["probabilities"]) == ["good", "bad"]  # as the run named first has them


def test_one_run_and_no_output_are_usage_mistakes(mtl, run, tmp_path):
    assert "needs two runs or more" in last_error(mtl("ensemble", run, "-o", tmp_path / "new"))
    assert "'--output'" in mtl("ensemble", run, other()).err


def test_an_unknown_task_of_an_ensemble_names_those_there_are(mtl, ensemble):
    assert last_error(mtl("predict", ensemble, "-t", "tome", stdin=LINES)) == (
        f'error: {ensemble}: no task "tome"; did you mean "tone"?'
    )
    assert last_error(mtl("eval", ensemble, "-t", "tome")).endswith('did you mean "tone"?')
