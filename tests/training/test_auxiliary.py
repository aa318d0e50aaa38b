"""Auxiliary tasks: trained like the others, and counted nowhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import mtlcli
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.evaluation.compare import compare
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.evaluation.table import bounds_of, read, tabulate
from mtlcli.runs.ensemble import choose, write
from mtlcli.studies.methods import find_methods
from mtlcli.studies.plan import plan_study
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, small_values, write_files


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks' files, `run` in which `near` is auxiliary and has no dev file, and `plain` in which all tasks count."""
    folder = tmp_path_factory.mktemp("auxiliary")
    write_files(folder)
    (folder / "near-dev.tsv").rename(folder / "near-kept.tsv")
    config = small_config(folder, tasks=tasks(folder, near={"auxiliary": True, "dev": None}))
    for _ in train(set_up(config), folder / "run"):
        pass
    for _ in train(set_up(small_config(folder, tasks=tasks(folder, near={"dev": "25%"}))), folder / "plain"):
        pass
    return folder


def tasks(folder: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """The sections of the three tasks, with changes by name."""
    sections = small_values(folder)["tasks"]
    return {name: section | changes.get(name, {}) for name, section in sections.items()}


def lines_of(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_an_auxiliary_task_is_trained_and_not_evaluated(place):
    run = place / "run"
    assert all("train/near/loss" in line for line in lines_of(run, "step"))
    assert not any(key.startswith("eval/near/") for line in lines_of(run, "evaluation") for key in line)
    results = json.loads((run / "results.json").read_text())
    assert list(results["tasks"]) == ["tone", "same"] and results["auxiliary"] == ["near"]
    assert sorted(path.name for path in (run / "predictions").iterdir()) == ["same.dev.jsonl", "tone.dev.jsonl"]


def test_the_score_is_the_mean_of_the_tasks_that_count(place):
    results = json.loads((place / "run" / "results.json").read_text())
    accuracies = [results["tasks"][task]["dev"]["accuracy"]["value"] for task in ("tone", "same")]
    assert results["score"] == pytest.approx(sum(accuracies) / 2)


def test_the_plan_says_auxiliary_and_has_no_warning_about_missing_dev_rows(place):
    plan = json.loads((place / "run" / "plan.json").read_text())
    assert [task["auxiliary"] for task in plan["tasks"]] == [False, False, True]
    assert plan["warnings"] == []


def test_its_dev_file_is_not_read_but_a_held_out_share_is_not_trained_on(tmp_path):
    files = write_files(tmp_path)
    (files / "near-dev.tsv").write_text("no such rows")
    assert set_up(small_config(files, tasks=tasks(files, near={"auxiliary": True}))).plan.tasks[2].rows == 34
    held_out = small_config(files, tasks=tasks(files, near={"auxiliary": True, "dev": "50%"}))
    assert set_up(held_out).plan.tasks[2].rows == 17


def test_patience_counts_the_other_tasks_alone(tmp_path):
    files = write_files(tmp_path)
    # `tone` reaches accuracy 1 at once, because every dev row has the label that the head predicts for every text.
    (files / "tone-dev.tsv").write_text("sentence\tlabel\nthe cat\tgood\n")
    (files / "tone-train.tsv").write_text("sentence\tlabel\n" + "the cat\tgood\n" * 30 + "the dog\tbad\n")
    config = small_config(
        files,
        tasks=tasks(files, same={"auxiliary": True}, near={"auxiliary": True}),
        training={"steps": 40, "patience": 2, "eval_every": 4},
        optimizer={"lr": 1e-3},
    )
    for _ in train(set_up(config), tmp_path / "run"):
        pass
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["why"] == "patience" and results["score"] == 1.0


@pytest.mark.parametrize(
    ("changes", "select_by", "problem"),
    [
        (
            {name: {"auxiliary": True} for name in ("tone", "same", "near")},
            "mean",
            "tasks.tone.auxiliary: every task is auxiliary, so none is left to select checkpoints by; leave one that counts",
        ),
        (
            {"near": {"auxiliary": True}},
            "near.pearson",
            'training.select_by: found "near.pearson": task "near" is auxiliary and does not count (or mean, or normalized-mean)',
        ),
    ],
)
def test_a_run_needs_a_task_that_counts(tmp_path, changes, select_by, problem):
    values = small_values(write_files(tmp_path))
    values["tasks"] = tasks(tmp_path, **changes)
    values["training"]["select_by"] = select_by
    with pytest.raises(MtlError) as error:
        set_up(resolve([Layer(values)]))
    assert error.value.lines == (problem,)


def test_evaluation_includes_it_only_where_it_is_named(place):
    evaluation = evaluate(place / "run", resamples=10)
    results, notes = evaluation.results, list(evaluation.notes)
    assert list(results) == ["tone", "same"]
    assert "auxiliary, and so left out without --task: near" in notes
    named = evaluate(place / "run", [("near", [str(place / "near-kept.tsv")])], resamples=10)
    assert named["near"]["dev"]["pearson"].n == 14


def test_comparison_leaves_out_a_task_that_is_auxiliary_in_one_run(place, tmp_path):
    run = shutil.copytree(place / "run", tmp_path / "run")
    shutil.copy(place / "plain" / "predictions" / "near.dev.jsonl", run / "predictions")
    comparison = compare([place / "plain", run], resamples=100)
    assert [row.task for row in comparison.compared] == ["tone", "same"]
    assert f"near: left out, because it is auxiliary in {run}; compare it with --task near" in comparison.notes
    assert [row.task for row in compare([place / "plain", run], tasks=["near"], resamples=100).compared] == ["near"]


def test_the_mean_of_a_table_is_over_the_tasks_that_count_in_every_run(place):
    measured = read([place / "run", place / "plain"])
    table = tabulate(measured, bounds=bounds_of(measured))
    assert table.titles == ("tone accuracy", "same accuracy", "near pearson")
    assert table.mean_title == "mean of tone, same"
    for row in table.rows:
        assert row.mean.mean == pytest.approx((row.cells[0].mean + row.cells[1].mean) / 2)
    assert tabulate(measured[1:], bounds=bounds_of(measured)).mean_title == "mean"


def test_prediction_includes_it_where_it_is_named_or_alone_fits(place):
    predictor = mtlcli.load(place / "run")
    assert list(predictor.predict([("the cat", "a dog")])) == ["same"]
    assert predictor.predict([("the cat", "a dog")], task="near")[0].score is not None
    rows = [{"sentence": "the cat", "sentence1": "the cat", "sentence2": "a dog"}]
    assert list(predictor.predict(rows)) == ["tone", "same"]


def test_prediction_includes_it_where_no_other_task_can_read_the_texts(tmp_path):
    files = write_files(tmp_path)
    config = small_config(files, tasks=tasks(files, same={"auxiliary": True}, near={"auxiliary": True}))
    for _ in train(set_up(config), tmp_path / "run"):
        pass
    assert list(mtlcli.load(tmp_path / "run").predict([("the cat", "a dog")])) == ["same", "near"]


def test_an_ensemble_keeps_it_auxiliary(place, tmp_path):
    write(choose([place / "run", place / "plain"], {}), tmp_path / "both")
    evaluation = evaluate(tmp_path / "both", resamples=10)
    results, notes = evaluation.results, list(evaluation.notes)
    assert list(results) == ["tone", "same"] and any("left out without --task: near" in note for note in notes)
    kept = json.loads((tmp_path / "both" / "results.json").read_text())
    assert list(kept["tasks"]) == ["tone", "same"] and kept["auxiliary"] == ["near"]
    assert list(mtlcli.load(tmp_path / "both").predict([("the cat", "a dog")])) == ["same"]


def test_a_study_judges_by_the_tasks_that_count(place):
    config = small_config(place, tasks=tasks(place, near={"auxiliary": True, "dev": None}))
    plan = plan_study(config, find_methods(["equal"]), [1], trials=1)
    assert list(plan.study.tasks) == ["tone", "same"]
    assert [job.place for job in plan.jobs if job.kind == "single-task"] == [
        "single-task/tone/seed-1",
        "single-task/same/seed-1",
    ]
    assert list(plan.jobs[-1].config.tasks) == ["tone", "same", "near"]
