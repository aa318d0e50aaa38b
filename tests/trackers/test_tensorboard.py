"""The event files of the tracker tensorboard, read back."""

import json
from pathlib import Path

import pytest

from event_files import curves, texts
from mtlcli.runs.names import TRACKERS
from mtlcli.testing import check_tracker
from mtlcli.trackers.base import TrackedRun
from mtlcli.trackers.tensorboard import TensorBoard
from mtlcli.training.events import Stepped
from mtlcli.training.run import configure_from, open_training, run_training
from small import small_values, write_files


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def points_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by name in metrics.jsonl; an evaluation's epoch is that of its step."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines(folder):
        left_out = {"kind", "step"} | ({"epoch"} if line["kind"] == "evaluation" else set())
        for name, value in line.items():
            if name not in left_out and value is not None:
                found.setdefault(name, []).append((line["step"], value))
    return found


def equal(curve: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    steps, values = zip(*curve, strict=True)
    expected_steps, expected_values = zip(*expected, strict=True)
    return steps == expected_steps and values == pytest.approx(expected_values, rel=1e-6)  # float32 in the file


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(tmp_path)
    values = small_values(write_files(tmp_path / "files"))
    return values | {"balancer": "uncertainty+pcgrad", "trackers": "tensorboard"}


def test_contract():
    check_tracker(TensorBoard)
    check_tracker(TensorBoard, every=10)


def test_a_run_is_in_tensorboard_as_it_is_in_metrics_jsonl(recipe):
    list(run_training(open_training(configure_from(recipe), Path("run"))))
    storage = Path("run/trackers/tensorboard")
    found, expected = curves(storage), points_of(Path("run"))
    finals = {name: found.pop(name) for name in list(found) if name.startswith("final/")}
    assert found.keys() == expected.keys()
    assert {
        "train/tone/loss",
        "balancer/same/weight",
        "gradients/cosine/tone/near",
        "eval/near/pearson",
    } <= found.keys()
    for name, points in expected.items():
        assert equal(found[name], points), name
    results = json.loads(Path("run/results.json").read_text())["tasks"]["tone"]["dev"]["accuracy"]
    assert equal(finals["final/tone/dev/accuracy"], [(12, results["value"])])
    assert equal(finals["final/tone/dev/accuracy/low"], [(12, results["low"])])
    shown = texts(storage)
    assert "| tone | 40 | 20 | 8 |" in shown["plan/text_summary"]
    assert "balancer:\n  name: uncertainty" in shown["recipe/text_summary"]


def test_no_step_is_there_twice_in_a_run_that_was_killed_and_resumed(recipe):
    recipe["training"] |= {"save_every": 4}
    events = run_training(open_training(configure_from(recipe), Path("run")))
    for event in events:
        if isinstance(event, Stepped) and event.step == 6:
            break
    events.close()  # as a kill: steps 5 and 6 are after the checkpoint
    storage = Path("run/trackers/tensorboard")
    assert [step for step, _ in curves(storage)["lr"]] == [1, 2, 3, 4, 5, 6]
    list(run_training(open_training(configure_from(None), Path("run"), resume=True)))
    assert len(list(storage.iterdir())) == 2
    found, expected = curves(storage), points_of(Path("run"))
    assert [step for step, _ in found["lr"]] == list(range(1, 13))
    for name, points in expected.items():
        assert equal(found[name], points), name


def test_a_tracker_that_is_added_on_resuming_gets_the_earlier_steps_too(recipe):
    recipe["training"] |= {"save_every": 4}
    opened = open_training(configure_from(recipe | {"trackers": []}), Path("run"))
    answers = iter([False, False, False, False, True])  # stop after step 5?
    list(run_training(opened, stop=lambda: next(answers)))
    assert not Path("run/trackers").exists()
    list(run_training(open_training(configure_from(None, trackers="tensorboard"), Path("run"), resume=True)))
    for name, points in points_of(Path("run")).items():
        assert equal(curves(Path("run/trackers/tensorboard"))[name], points), name


def test_every_thins_steps_and_keeps_evaluations(recipe):
    recipe["trackers"] = [{"name": "tensorboard", "every": 5}]
    list(run_training(open_training(configure_from(recipe), Path("run"))))
    found = curves(Path("run/trackers/tensorboard"))
    assert [step for step, _ in found["train/tone/loss"]] == [5, 10]
    assert [step for step, _ in found["eval/tone/loss"]] == [4, 8, 12]


def test_replacing_a_run_removes_its_event_files(recipe):
    list(run_training(open_training(configure_from(recipe), Path("run"))))
    recipe["trackers"] = []
    list(run_training(open_training(configure_from(recipe), Path("run"), overwrite=True)))
    assert not Path("run/trackers").exists() and not Path("run", TRACKERS).exists()


def test_a_new_run_removes_the_files_of_an_earlier_one_and_a_resumed_one_keeps_them(tmp_path):
    run = TrackedRun(tmp_path, tmp_path, "run", "", {})
    for first, value in ((0, 1.0), (0, 2.0), (1, 3.0)):
        tracker = TensorBoard()
        tracker.start(TrackedRun(**{**vars(run), "first_step": first}))
        tracker.scalars(first + 1, {"lr": value})
        tracker.finish("finished")
    assert curves(tmp_path) == {"lr": [(1, 2.0), (2, 3.0)]}
