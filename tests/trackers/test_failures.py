"""A tracker that fails, hangs or is slow changes nothing about its run, and is warned of once."""

import re
import resource
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bad_trackers import FOREVER, Fails, Recorder
from mtlcli.config.layers import Layer, dump
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.files import sha256
from mtlcli.trackers import queue, session
from mtlcli.trackers.base import TrackedRun
from mtlcli.trackers.queue import TrackerThread
from mtlcli.trackers.session import make_trackers
from mtlcli.trackers.tensorboard import TensorBoard
from mtlcli.training.events import Event, Finished, Notice, Stepped
from mtlcli.training.run import configure_from, open_training, run_training
from mtlcli.training.tracking import tracked
from small import small_values, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def recorded(files, tmp_path_factory) -> list[Event]:
    """The events of a run without a tracker, to pass on without training again."""
    return run(files, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(autouse=True)
def _released(monkeypatch) -> Iterator[None]:
    """No test waits long for a tracker, and none leaves a thread behind."""
    monkeypatch.setattr(session, "WAIT", 0.3)
    monkeypatch.setattr(queue, "_left", [])
    yield
    FOREVER.set()
    FOREVER.clear()


def values_of(files: Path, *trackers: dict) -> dict:
    values = small_values(files)
    return values | {"tasks": {"tone": values["tasks"]["tone"]}, "trackers": list(trackers)}


def run(files: Path, folder: Path, *trackers: dict) -> list[Event]:
    return list(run_training(open_training(configure_from(values_of(files, *trackers)), folder)))


def again(recorded: list[Event], files: Path, folder: Path, *trackers: dict) -> list[Event]:
    """The events of the recorded run with trackers, as if it were in another folder."""
    config = resolve([Layer(values_of(files, *trackers))])
    folder.mkdir()

    def events() -> Generator[Event, None, None]:
        for event in recorded:
            yield replace(event, folder=folder) if hasattr(event, "folder") else event

    return list(tracked(events(), config, make_trackers(config.trackers)))


def fails(**options: str) -> dict:
    return {"name": "bad_trackers:Fails", **options}


def warnings_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice) and event.is_warning]


PROBLEMS = {
    "raise": "ConnectionError: no route to host",
    "exit": "SystemExit: you are not logged in",
    "hang": "has not answered for 0.1 s",
}


@pytest.mark.parametrize("method", ["start", "text", "scalars", "finish"])
@pytest.mark.parametrize("how", PROBLEMS)
def test_a_tracker_that_fails_is_one_warning(recorded, files, tmp_path, method, how, monkeypatch):
    monkeypatch.setattr(queue, "PATIENCE", 0.1)
    events = again(recorded, files, tmp_path / "run", fails(method=method, how=how))
    [warning] = warnings_of(events)
    assert warning == (
        f"tracker Fails: {PROBLEMS[how]}; it gets no more of this run, which metrics.jsonl has in full; to send it again: "
        f"mtl track {tmp_path / 'run'}"
    )
    assert (tmp_path / "run" / "train.log").read_text().count(f"warning: {warning}") == 1
    assert [event for event in events if not isinstance(event, Notice)] == [
        replace(event, folder=tmp_path / "run") if hasattr(event, "folder") else event for event in recorded
    ]


def test_a_run_is_the_same_whatever_its_trackers_do(recorded, files, tmp_path):
    trackers = [fails(method=method, how=how) for method in ("start", "files") for how in PROBLEMS]
    events = run(files, tmp_path / "run", *trackers, fails(how="sleep"))
    assert len(warnings_of(events)) == len(trackers) + 1
    other = next(event.folder for event in recorded if isinstance(event, Finished))
    for name in ("metrics.jsonl", "encoder/model.safetensors", "heads.safetensors", "run.json"):
        assert sha256(tmp_path / "run" / name) == sha256(other / name), name


def test_the_results_come_before_the_wait_and_a_tracker_that_hangs_is_left_behind_in_the_next_run(
    recorded, files, tmp_path
):
    events = again(recorded, files, tmp_path / "first", fails(method="finish", how="hang"))
    assert [type(event) for event in events[-2:]] == [Finished, Notice]
    assert "was not done in time; 0 of its calls were not made" in events[-1].text
    [warning] = warnings_of(again(recorded, files, tmp_path / "second", fails(method="finish", how="hang")))
    assert "still hangs from an earlier run of this process" in warning


def test_a_slow_tracker_is_not_waited_for(recorded, files, tmp_path):
    started = time.monotonic()
    # 12 steps, 3 evaluations and the final numbers of 1 s each
    [warning] = warnings_of(again(recorded, files, tmp_path / "run", fails(how="sleep")))
    assert time.monotonic() - started < 3
    assert re.search(r"was not done in time; 1[56] of its calls were not made", warning)
    # It ends after the call that it is in, so the next run of this process can be tracked.
    assert queue.hangs(Fails)
    deadline = time.monotonic() + 5
    while queue.hangs(Fails) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not queue.hangs(Fails) and not queue.any_hangs()


def test_a_full_queue_drops_lines_and_counts_them(recorded, files, tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "LINES", 3)
    monkeypatch.setattr(session, "WAIT", 5)
    [warning] = warnings_of(again(recorded, files, tmp_path / "run", fails(method="start", how="sleep")))
    assert re.search(r"was slower than training, so 1[23] lines were not sent", warning)


def test_other_trackers_go_on_when_one_fails(recorded, files, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "calls", [])
    recorder = {"name": "bad_trackers:Recorder"}
    events = again(recorded, files, tmp_path / "run", fails(), recorder, fails(method="finish"))
    assert sorted(text.partition(":")[0] for text in warnings_of(events)) == ["tracker Fails", "tracker Fails-2"]
    kinds = [kind for kind, _ in Recorder.calls]
    assert kinds == ["start", "text", "text", *["scalars"] * 16, "finish"]


def test_the_files_of_a_finished_run_are_offered(files, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "calls", [])
    run(files, tmp_path / "run", {"name": "bad_trackers:Recorder"})
    assert Recorder.calls[-2:] == [
        ("files", ["config.yaml", "plan.json", "run.json", "results.json", "README.md"]), ("finish", "finished"),
    ]  # fmt: skip


def test_a_run_that_fails_or_is_abandoned_says_so_to_its_trackers(files, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "calls", [])
    values = values_of(files, {"name": "bad_trackers:Recorder"})
    diverging = values | {"optimizer": {"lr": 1e30, "head_lr": 1e30, "warmup": 0.0, "clip": None}}
    with pytest.raises(MtlError):
        list(run_training(open_training(configure_from(diverging), tmp_path / "diverged")))
    assert Recorder.calls[-1] == ("finish", "failed")
    events = run_training(open_training(configure_from(values), tmp_path / "left"))
    next(event for event in events if isinstance(event, Stepped))
    events.close()
    assert Recorder.calls[-1] == ("finish", "interrupted")


def test_a_resumed_run_gets_its_id_and_first_step_back(files, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "calls", [])
    values = values_of(files, {"name": "bad_trackers:Recorder"})
    list(run_training(open_training(configure_from(values), tmp_path / "run"), stop=lambda: True))
    list(run_training(open_training(configure_from(None), tmp_path / "run", resume=True)))
    first, second = (call for kind, call in Recorder.calls if kind == "start")
    assert (first.id, first.first_step, first.name, first.group) == (None, 0, "run", "")
    assert (second.id, second.first_step) == ("the id", 1)
    assert first.config["optimizer.lr"] == second.config["optimizer.lr"] == "0.00175"
    steps = [call[0] for kind, call in Recorder.calls if kind == "scalars" and "lr" in call[1]]
    assert steps == list(range(1, 13))


# The file cannot be closed properly.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_problem_of_tensorboard(tmp_path):
    tracker = TensorBoard()
    thread = TrackerThread("tensorboard", tracker)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # stands for a full disk: writes beyond it fail
    try:
        thread.put(lambda: tracker.start(TrackedRun(tmp_path, tmp_path, "run", "", {})))
        for step in range(1, 2000):
            thread.put(lambda step=step: tracker.scalars(step, {"train/sst/loss": 1.0 / step}))
        thread.end(lambda: tracker.finish("finished"))
        thread.wait(time.monotonic() + 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert thread.problem == "OSError: [Errno 27] File too large"


def test_a_call_is_queued_in_microseconds_whatever_the_tracker_does():
    thread = TrackerThread("hangs", Recorder())
    thread.put(FOREVER.wait)
    started = time.perf_counter()
    for _ in range(5000):
        thread.put(int)
    assert (time.perf_counter() - started) / 5000 < 1e-4


@pytest.mark.slow
def test_a_process_ends_although_a_library_hangs_in_the_end_and_at_exit(files, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(values_of(files, {"name": "bad_trackers:HangsAtExit"})))
    tests = Path(__file__).parents[1]
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "mtlcli", "train", "-c", recipe, "-o", tmp_path / "run", "-q"],
        capture_output=True, text=True, cwd=tests, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "tone" in ended.stdout
    assert ended.stderr.count("warning: tracker HangsAtExit: was not done in time") == 1
    # Imports and 12 steps take some seconds themselves; the wait for trackers takes 10.
    assert time.monotonic() - started < 10 + 40
    assert (tmp_path / "run" / "results.json").is_file()
