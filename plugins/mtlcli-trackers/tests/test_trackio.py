"""trackio in a folder of the test's own; the library reads TRACKIO_DIR when it is imported, so it is set there as well."""

import json
from pathlib import Path

import pytest

pytest.importorskip("trackio")

import trackio.sqlite_storage
import trackio.utils
from mtlcli_trackers.trackio_tracker import Trackio

from mtlcli.testing import check_tracker
from mtlcli.trackers.base import TrackedRun


@pytest.fixture(autouse=True)
def database(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "trackio"
    folder.mkdir()
    for module in (trackio, trackio.sqlite_storage, trackio.utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", folder)
    return folder


def logs_of(name: str, project: str = "mtlcli") -> list[dict]:
    return trackio.sqlite_storage.SQLiteStorage.get_logs(project, name)


def test_contract(database):
    check_tracker(Trackio, project="contract")
    assert (database / "contract.db").is_file()


def test_a_killed_and_resumed_run_is_one_run_with_every_number(train, tmp_path, capsys):
    assert train({"name": "trackio", "project": "tones"}, stop_after=6) == []
    assert train(resume=True) == []
    assert trackio.sqlite_storage.SQLiteStorage.get_runs("tones") == ["demo"]
    rows = logs_of("demo", "tones")
    lines = [json.loads(line) for line in (tmp_path / "runs" / "demo" / "metrics.jsonl").read_text().splitlines()]
    expected = {line["step"]: line["train/tone@home/loss"] for line in lines if line["kind"] == "step"}
    found = [(row["step"], row["train/tone@home/loss"]) for row in rows if "train/tone@home/loss" in row]
    assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert dict(found) == expected
    assert [row["step"] for row in rows if "eval/tone@home/accuracy" in row] == [4, 8]
    assert any("final/tone@home/dev/accuracy/low" in row for row in rows)
    plans = [row["plan"]["_value"] for row in rows if "plan" in row]
    assert len(plans) == 2 and plans[0].startswith("| task |")
    assert "Trackio" not in "".join(capsys.readouterr())


def test_another_run_of_the_same_name_is_not_continued(tmp_path):
    first, second = Trackio(), Trackio()
    run = TrackedRun(tmp_path, tmp_path, "demo", "", {})
    identity = first.start(run)
    first.finish("interrupted")
    assert second.start(run) != identity
    second.scalars(1, {"lr": 1.0})
    second.finish("finished")
    with pytest.raises(RuntimeError, match='has a newer run of the name "demo" than the resumed one'):
        Trackio().start(TrackedRun(tmp_path, tmp_path, "demo", "", {}, identity, 3))
