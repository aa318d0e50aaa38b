from pathlib import Path

from mtlcli.templates.trackers import Example
from mtlcli.testing import check_tracker
from mtlcli.trackers.base import TrackedRun


def test_contract() -> None:
    check_tracker(Example, every=10)


def test_every_number_is_a_row(tmp_path: Path) -> None:
    tracker = Example()
    tracker.start(TrackedRun(tmp_path, tmp_path, "demo", "", {}))
    tracker.scalars(7, {"train/sst/loss": 1.5, "lr": 0.001})
    tracker.finish("finished")
    assert (tmp_path / "numbers.csv").read_text(encoding="utf-8").splitlines() == ["7,train/sst/loss,1.5", "7,lr,0.001"]
