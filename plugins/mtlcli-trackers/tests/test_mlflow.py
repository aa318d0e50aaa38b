"""MLflow in a database of the test's own."""

import json

import pytest

pytest.importorskip("mlflow")

from mtlcli_trackers.mlflow_tracker import MLflow

from mtlcli.testing import check_tracker
from mtlcli.trackers.base import TrackedRun


def client_of(folder):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def test_contract(tmp_path):
    check_tracker(MLflow, uri=f"sqlite:///{tmp_path / 'contract.db'}", every=2)


def test_a_killed_and_resumed_run_is_one_run_with_every_number(train, tmp_path):
    assert train({"name": "mlflow", "every": 1}, stop_after=6) == []
    assert train(resume=True) == []
    runs = tmp_path / "runs"
    client = client_of(runs)
    experiment = client.get_experiment_by_name("mtlcli")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "demo" and run.info.status == "FINISHED"
    assert run.info.run_id == json.loads((runs / "demo" / "trackers.json").read_text())["ids"]["mlflow"]
    lines = [json.loads(line) for line in (runs / "demo" / "metrics.jsonl").read_text().splitlines()]
    expected = {line["step"]: line["train/tone@home/loss"] for line in lines if line["kind"] == "step"}
    history = client.get_metric_history(run.info.run_id, "train/tone_home/loss")
    assert [point.step for point in history].count(6) == 2  # made before and after the kill
    assert {point.step: point.value for point in history} == expected and len(expected) == 8
    accuracy = client.get_metric_history(run.info.run_id, "eval/tone_home/accuracy")
    assert [point.step for point in accuracy] == [4, 8]
    assert "final/tone_home/dev/accuracy/low" in run.data.metrics
    assert run.data.params["optimizer.lr"] == "0.00175" and run.data.params["tasks.tone_home.kind"] == "classification"
    assert run.data.tags["mlflow.note.content"].startswith("| task |")
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"plan.md", "recipe.md", "config.yaml", "plan.json", "run.json", "results.json", "README.md"}


def test_names_that_mlflow_refuses_are_changed_and_stay_apart(tmp_path):
    tracker = MLflow(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    identity = tracker.start(TrackedRun(tmp_path, tmp_path, "run", "", {"a": "1"}))
    tracker.scalars(1, {"a@b": 1.0, "a,b": 2.0, "é/x": 3.0})
    tracker.finish("finished")
    assert client_of(tmp_path).get_run(identity).data.metrics == {"a_b": 1.0, "a_b_2": 2.0, "é/x": 3.0}


def test_a_resumed_run_keeps_its_parameters_and_tags_what_changed(tmp_path):
    identity = None
    for first, config in ((0, {"a": "1", "b": "2"}), (5, {"a": "1", "b": "3", "c": "4"})):
        tracker = MLflow(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        identity = tracker.start(TrackedRun(tmp_path, tmp_path, "run", "", config, identity, first))
        tracker.finish("interrupted")
    run = client_of(tmp_path).get_run(identity)
    assert run.data.params == {"a": "1", "b": "2", "c": "4"}
    assert run.data.tags["resumed.b"] == "3" and run.info.status == "KILLED"


def test_a_server_that_refuses_is_one_warning_and_the_run_goes_on(train, tmp_path):
    [warning] = train({"name": "mlflow", "uri": "http://127.0.0.1:9"})
    assert warning.startswith("tracker mlflow: MlflowException: ")
    assert len((tmp_path / "runs" / "demo" / "metrics.jsonl").read_text().splitlines()) == 10
