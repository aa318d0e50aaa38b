"""`mtl eval`: what it measures, how it prints it, and the rows it is given."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtlcli.data.tokens import cache_folder
from mtlcli.files import sha256
from sealed import edit
from trained import copy_of


def results(ended) -> dict:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)["tasks"]


def last_error(ended) -> str:
    assert ended.code == 2
    assert ended.out == ""
    return ended.err.splitlines()[-1]


def test_a_table_has_a_row_per_task_split_and_metric(mtl, run):
    code, out, _ = mtl("eval", run, "--resamples", 20)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == str(run)
    assert lines[1].split() == ["task", "split", "metric", "value", "95", "%", "interval", "n"]
    assert [line.split()[:3] for line in lines[2:] if " dev " in line or " test " in line] == [
        [task, split, metric]
        for task, metric in (("tone", "accuracy"), ("stars", "pearson"), ("same", "accuracy"), ("near", "pearson"))
        for split in ("dev", "test")
    ]
    assert max(map(len, lines[1:])) <= 80


def test_json_is_all_there_is_on_standard_output_and_holds_value_interval_and_n(mtl, run):
    found = results(mtl("eval", run, "--json"))
    assert set(found) == {"tone", "stars", "same", "near"}
    one = found["tone"]["dev"]["accuracy"]
    assert list(one) == ["value", "low", "high", "n", "interval"]
    assert one["interval"] in ("bootstrap", "exact")
    assert one["n"] == 30
    assert one["low"] <= one["value"] <= one["high"]


def test_dev_is_what_the_training_run_saw_last(mtl, run):
    stored = json.loads((run / "results.json").read_text())["tasks"]
    found = results(mtl("eval", run, "--json", "--split", "dev"))
    for task in stored:
        for metric, one in stored[task]["dev"].items():
            assert found[task]["dev"][metric]["value"] == pytest.approx(one["value"], abs=1e-6)


def test_a_model_of_nans_is_not_measured(mtl, run, tmp_path):
    run = copy_of(run, tmp_path)
    heads = load_file(run / "heads.safetensors")
    save_file({key: torch.full_like(value, float("nan")) for key, value in heads.items()}, run / "heads.safetensors")
    edit(
        run / "run.json",
        lambda record: record["files"].update({"heads.safetensors": sha256(run / "heads.safetensors")}),
    )
    assert f"error: {run}: tone: the model's output is NaN or infinite; training may have diverged" in last_error(
        mtl("eval", run, "--json")
    )


def test_one_task_and_one_split_can_be_asked_for(mtl, run):
    found = results(mtl("eval", run, "--json", "-t", "same", "--split", "train"))
    assert list(found) == ["same"]
    assert found["same"]["train"]["accuracy"]["n"] == 60


def test_a_file_of_other_rows_is_measured_whole(mtl, run, tmp_path):
    (tmp_path / "other.csv").write_text("sentence,label\nthe fine lamp,good\nthe awful lamp,bad\nthe lovely pie,good\n")
    assert results(mtl("eval", run, "--json", "-t", f"tone={tmp_path}/other.csv"))["tone"]["dev"]["accuracy"]["n"] == 3


def test_a_file_laid_out_otherwise_is_read_as_set_says(mtl, run, tmp_path):
    (tmp_path / "other.tsv").write_text("good\tthe fine lamp\nbad\tthe awful lamp\n")
    sets = [part for key in ("header=false", "text=1", "label=0") for part in ("--set", f"tasks.tone.{key}")]
    assert (
        results(mtl("eval", run, "--json", "-t", f"tone={tmp_path}/other.tsv", *sets))["tone"]["dev"]["accuracy"]["n"]
        == 2
    )


def test_what_the_model_was_trained_with_cannot_be_set(mtl, run):
    assert last_error(mtl("eval", run, "--set", "tasks.tone.encoding=bi")) == (
        "error: --set tasks.tone.encoding: a finished run can change tasks.NAME.KEY alone, KEY being text, label, header, format, "
        "on_bad_row, no_label, unlabeled, where, group, weight, metrics, weighted_metrics"
    )
    assert 'no task "tome"; did you mean "tone"?' in last_error(mtl("eval", run, "--set", "tasks.tome.text=a"))
    assert "found 'perhaps'" in last_error(mtl("eval", run, "--set", "tasks.tone.header=perhaps"))


def test_a_label_that_training_did_not_have_is_told_and_counts_as_wrong(mtl, run, tmp_path):
    (tmp_path / "other.tsv").write_text("sentence\tlabel\nthe fine lamp\tgood\nthe fine lamp\tbad\nthe lamp\tstrange\n")
    ended = mtl("eval", run, "--json", "-t", f"tone={tmp_path}/other.tsv")
    assert results(ended)["tone"]["dev"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert "'strange' (1)" in ended.err


def test_constant_predictions_have_a_defined_value_and_a_warning(mtl, run, tmp_path):
    (tmp_path / "other.tsv").write_text("sentence\tscore\nthe lamp\t1\nthe lamp\t5\n")
    for flags in ((), ("--json",)):
        code, out, err = mtl("eval", run, "-t", f"stars={tmp_path}/other.tsv", *flags)
        assert code == 0
        assert "warning: stars dev: predictions are constant: pearson is 0" in err
        assert "nan" not in out.lower()


def test_quiet_json_is_one_line_and_nothing_else(mtl, run, tmp_path):
    (tmp_path / "other.tsv").write_text("sentence\tscore\nthe lamp\t1\nthe lamp\t5\n")
    _, out, err = mtl("eval", run, "-t", f"stars={tmp_path}/other.tsv", "--json", "--quiet")
    assert err == ""
    assert len(out.splitlines()) == 1


def test_bad_rows_of_all_tasks_are_told_at_once_before_the_model_is_loaded(mtl, run, tmp_path, monkeypatch):
    monkeypatch.setattr("mtlcli.runs.saved_model.load_run", lambda _: pytest.fail("the model was loaded"))
    (tmp_path / "a.tsv").write_text("sentence\tlabel\nthe lamp\n")
    (tmp_path / "b.tsv").write_text("sentence\tscore\nthe lamp\tmany\n")
    code, _, err = mtl("eval", run, "-t", f"tone={tmp_path}/a.tsv", "-t", f"stars={tmp_path}/b.tsv")
    assert code == 2
    assert err.splitlines() == [
        f"error: {tmp_path}/a.tsv:2: expected 2 columns, found 1",
        f"error: {tmp_path}/b.tsv:2: score: found 'many', expected a number",
    ]


def test_a_bad_row_can_be_skipped_and_is_told(mtl, run, tmp_path):
    (tmp_path / "a.tsv").write_text("sentence\tlabel\nthe lamp\nthe fine lamp\tgood\nthe pie\tbad\n")
    ended = mtl("eval", run, "--json", "-t", f"tone={tmp_path}/a.tsv", "--set", "tasks.tone.on_bad_row=skip")
    assert results(ended)["tone"]["dev"]["accuracy"]["n"] == 2
    assert "1 row skipped" in ended.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-t", "tome"), 'no task "tome"; did you mean "tone"?'),
        (("--split", "valid"), "--split valid: expected one of dev, test, train"),
        (("--precision", "fp64"), '--precision: found "fp64": expected one of auto, fp32, bf16'),
        (("-t", "tone=a.tsv,b.tsv"), "--task tone=a.tsv,b.tsv: expected one file"),
        (("-t", "tone", "-t", "tone"), "--task tone: the task is named twice; evaluate one file after the other"),
        (("-t", "tone=none.tsv"), "none.tsv: no such file"),
        (
            ("-t", "tone=a.tsv", "--split", "dev", "--split", "test"),
            "--split: a.tsv is one split; name one of dev, test",
        ),
        (("--data", "none"), "is not a folder"),
    ],
)
def test_a_wrong_question_says_what_could_be_asked(mtl, run, flags, message):
    assert message in last_error(mtl("eval", run, *flags))


def test_a_folder_without_the_files_of_these_tasks_has_nothing_to_measure(mtl, run, tmp_path):
    error = last_error(mtl("eval", run, "--data", tmp_path))
    assert "nothing to evaluate" in error
    assert "give rows with --task NAME=FILE or --data FOLDER" in error


def test_an_empty_file_or_a_header_alone_has_no_rows(mtl, run, tmp_path):
    (tmp_path / "empty.tsv").touch()
    (tmp_path / "header.tsv").write_text("sentence\tlabel\n")
    assert "empty.tsv: is empty" in last_error(mtl("eval", run, "-t", f"tone={tmp_path}/empty.tsv"))
    assert "header.tsv: no usable row" in last_error(mtl("eval", run, "-t", f"tone={tmp_path}/header.tsv"))


def test_a_run_that_moved_or_cannot_be_written_is_measured_all_the_same(mtl, run, tmp_path):
    moved = copy_of(run, tmp_path)
    shutil.rmtree(moved / "predictions")
    (moved / "predictions").write_text("in the way")
    ended = mtl("eval", moved, "--json", "-t", "tone")
    assert results(ended)["tone"]["dev"]["accuracy"]["n"] == 30
    assert "tone.dev.jsonl: cannot be written (" in ended.err


def test_nothing_is_found_again_by_its_name_alone(mtl, run, tmp_path):
    """The same path with the other label in every row: the two accuracies are one together."""
    file = tmp_path / "other.tsv"
    found = []
    for label in ("good", "bad"):
        file.write_text(f"sentence\tlabel\nthe lamp\t{label}\nthe fine lamp\t{label}\nthe awful pie\t{label}\n")
        found.append(results(mtl("eval", run, "--json", "-t", f"tone={file}"))["tone"]["dev"]["accuracy"]["value"])
    assert sum(found) == pytest.approx(1)
    assert not list((cache_folder() or tmp_path).glob("*"))


# Scores of each class


def test_scores_of_each_class_follow_on_request_within_80_columns(mtl, run):
    code, out, err = mtl("eval", run, "--per-class", "--split", "dev", "--resamples", 50)
    assert code == 0
    assert "note: near: has no classes, so no scores of classes" in err.splitlines()
    lines = [line.rstrip() for line in out.splitlines()]
    place = lines.index("tone dev: 2 classes")
    assert lines[place + 1].split() == ["class", "support", *"precision (95 %) recall (95 %) F1 (95 %)".split()]
    supports = {line.split()[0]: int(line.split()[1]) for line in lines[place + 2 : place + 4]}
    assert set(supports) == {"good", "bad"} and sum(supports.values()) == 30
    assert max(map(len, lines[1:])) <= 80
    assert "2 classes" not in mtl("eval", run, "--split", "dev", "--resamples", 50).out


def test_json_has_scores_of_classes_beside_the_metrics(mtl, run):
    values = json.loads(mtl("eval", run, "--per-class", "--split", "dev", "--json").out)
    assert set(values) == {"tasks", "classes"} and set(values["classes"]) == {"tone", "same"}
    classes = values["classes"]["tone"]["dev"]
    assert [list(of_class) for of_class in classes] == 2 * [
        ["class", "support", "predicted", "precision", "recall", "f1"]
    ]
    right = sum(of_class["recall"]["value"] * of_class["support"] for of_class in classes)
    assert right / 30 == pytest.approx(values["tasks"]["tone"]["dev"]["accuracy"]["value"])
    assert set(json.loads(mtl("eval", run, "--json").out)) == {"tasks"}


# Other metrics of a finished run


def test_a_finished_run_can_be_measured_by_other_metrics_without_changing_its_predictions(mtl, run, tmp_path):
    run = copy_of(run, tmp_path)
    before = (run / "predictions" / "tone.dev.jsonl").read_bytes()
    metrics = "tasks.tone.metrics=[mcc, {name: calibration-error, bins: 5}, {name: f1, positive: good}]"
    found = results(mtl("eval", run, "--json", "--split", "dev", "--task", "tone", "--set", metrics))
    assert list(found["tone"]["dev"]) == ["mcc", "calibration-error[bins=5]", "f1[positive=good]"]
    assert (run / "predictions" / "tone.dev.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("tasks.tone.metrics=[{name: f1, positive: fair}]", 'positive: found "fair", expected one of bad, good'),
        ("tasks.tone.weighted_metrics=true", "metrics need the column of the weights: --set tasks.tone.weight=COLUMN"),
        ("tasks.tone.metrics=[acuracy]", 'unknown metric "acuracy"; did you mean "accuracy"?'),
    ],
)
def test_metrics_that_do_not_fit_are_one_line(mtl, run, setting, problem):
    assert last_error(mtl("eval", run, "--set", setting)).endswith(problem)


def test_the_share_held_out_stays_that_of_the_run_whatever_set_says(mtl, tmp_path):
    lines = [f"text {number}\t{'ab'[number % 2]}\tdoc{number % 9}\n" for number in range(60)]
    (tmp_path / "rows.tsv").write_text("text\tlabel\tdoc\n" + "".join(lines))
    recipe = {
        "tasks": {"t": {"kind": "classification", "train": "rows.tsv", "dev": "20%"}},
        "encoder": {"name": "tiny", "layers": 1, "dim": 16}, "training": {"steps": 2, "batch_size": 8},
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    trained = tmp_path / "run"
    assert mtl("train", "-c", tmp_path / "recipe.json", "-o", trained, "-q").code == 0
    before = (trained / "predictions" / "t.dev.jsonl").read_text()
    digests = {json.loads(line)["digest"] for line in before.splitlines()}
    assert results(mtl("eval", trained, "--set", "tasks.t.group=doc", "--json"))["t"]["dev"]["accuracy"]["n"] == 12
    after = (trained / "predictions" / "t.dev.jsonl").read_text()
    assert {json.loads(line)["digest"] for line in after.splitlines()} == digests
    error = last_error(mtl("eval", trained, "--set", "tasks.t.where={doc: doc1}"))
    assert "dev: 20% holds out training rows as the run has read them" in error and "--task t=FILE" in error
