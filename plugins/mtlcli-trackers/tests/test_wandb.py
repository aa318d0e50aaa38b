"""W&B without a network or an account: what is in the files that `wandb sync` sends."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb")

from mtlcli_trackers.wandb_tracker import WandB, ends_with_a_record

from mtlcli.testing import check_tracker
from mtlcli.trackers.base import TrackedRun

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7
FULL, FIRST, LAST = 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, which is a log of LevelDB: blocks of chunks with checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, at, parts = path.read_bytes(), FILE_HEADER, b""
    while at + HEADER <= len(raw):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<HB", raw[at + 4 : at + HEADER])
        chunk = raw[at + HEADER : at + HEADER + length]
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        at += HEADER + length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)


def history(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(id of the run, row) of the history in all offline runs of a folder, in the order of their files."""
    rows, identity = [], ""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for record in records(path):
            if record.WhichOneof("record_type") == "run":
                identity = record.run.run_id
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                rows.append((identity, items))
    return rows


def test_contract():
    check_tracker(WandB)
    check_tracker(WandB, mode="offline", project="contract", every=5)


def test_a_killed_and_resumed_run_keeps_its_id(train, tmp_path):
    assert train({"name": "wandb"}, stop_after=6) == []
    assert train(resume=True) == []
    run = tmp_path / "runs" / "demo"
    identity = json.loads((run / "trackers.json").read_text())["ids"]["wandb"]
    rows = history(run / "trackers" / "wandb")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {line["step"]: line["train/tone@home/loss"] for line in lines if line["kind"] == "step"}
    assert {owner for owner, _ in rows} == {identity}
    found = [(row["_step"], row["train/tone@home/loss"]) for _, row in rows if "train/tone@home/loss" in row]
    assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert dict(found) == pytest.approx(expected)
    assert [row["_step"] for _, row in rows if "eval/tone@home/accuracy" in row] == [4, 8]
    folders = sorted((run / "trackers" / "wandb" / "wandb").glob("offline-run-*/files"))
    names = {path.name for path in folders[-1].iterdir()}
    assert {"plan.md", "recipe.md", "config.yaml", "results.json", "run.json", "plan.json"} <= names


FULL_DISK = """
import resource, sys
from pathlib import Path
from mtlcli.trackers.base import TrackedRun
from mtlcli_trackers.wandb_tracker import WandB

resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # stands for a full disk: no file grows beyond it
tracker, folder = WandB(), Path(sys.argv[1])
tracker.start(TrackedRun(folder, folder, "demo", "", {}))
for step in range(1, 1000):
    tracker.scalars(step, {"train/sst/loss": 1.0 / step, "lr": 0.1 / step})
try:
    tracker.finish("finished")
except OSError as error:
    print(str(error).partition(".wandb ")[2])
"""


def test_a_full_disk_is_an_error_at_the_end(tmp_path):
    # In a process of its own, because that of the library inherits the limit where it is started; it would use the one of these tests.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True, env=environment
    )
    assert ended.stdout == "ends before the run, at 60,000 bytes; is the disk full?\n"


def test_a_file_that_was_cut_is_told_from_a_whole_one(tmp_path):
    tracker = WandB()
    tracker.start(TrackedRun(tmp_path, tmp_path, "demo", "", {}))
    for step in range(1, 600):
        tracker.scalars(step, {"train/sst/loss": 1.0 / step})
    tracker.finish("finished")
    [path] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    whole = path.read_bytes()
    assert len(whole) > 2 * 32768 and ends_with_a_record(path)
    for size in (len(whole) - 1, 50_000, 3):
        path.write_bytes(whole[:size])
        assert ends_with_a_record(path) == (size == 3)  # too short to be of this format


def test_mode_auto_is_online_only_with_a_key(monkeypatch):
    assert WandB()._mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandB()._mode() is None
    assert WandB(mode="online")._mode() == "online"
