"""Run folders: claimed by one process at a time, recovered where they are damaged, and never robbed of what no run wrote."""

import os
import signal
import time
from pathlib import Path

import pytest

from mtlcli.errors import MtlError
from mtlcli.files import Process, this_process
from mtlcli.runs import lock as locks
from mtlcli.runs.folder import claim, claim_new, inspect_folder, stored_layer, write_config
from mtlcli.runs.lock import Holder, holder_of, lock_folder
from mtlcli.runs.names import LOCK
from mtlcli.runs.record import read_record, stored_config
from trained import copy_of, trained


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of a finished run that may be damaged."""
    return copy_of(trained(), tmp_path)


def error(function, *arguments, **more) -> str:
    with pytest.raises(MtlError) as caught:
        function(*arguments, **more)
    assert len(caught.value.lines) == 1
    return caught.value.lines[0]


def write_lock(folder: Path, process: Process, silent_for: float) -> None:
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    locks._write(handle, Holder(process, "2026-01-02 03:04:05"))
    os.close(handle)
    touched = time.time() - silent_for
    os.utime(folder / LOCK, (touched, touched))


# One process at a time


def test_a_folder_is_free_again_when_it_is_released_or_its_process_was_killed(tmp_path):
    folder, ready = tmp_path / "run", tmp_path / "ready"
    pid = os.fork()
    if pid == 0:
        lock_folder(folder)
        ready.touch()
        time.sleep(600)
        os._exit(0)
    try:
        while not ready.exists():
            time.sleep(0.01)
        message = error(claim, folder)
        host = this_process().host.partition("+")[0]
        assert message.startswith(f"--output: {folder} is in use by process {pid} on {host} since 20")
        assert error(claim, folder, resume=True) == message
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with claim(folder) as opened:
        assert "is in use by this process since" in error(claim, folder)
        assert opened.warnings == ()
    assert holder_of(folder) is None
    assert list(folder.iterdir()) == []


def test_a_folder_that_was_made_for_nothing_is_removed_again(tmp_path):
    with claim(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_host_holds_as_long_as_it_gives_a_sign_of_life(tmp_path):
    there = Process("elsewhere+1", 7, "1")
    write_lock(tmp_path, there, silent_for=100)
    message = error(claim, tmp_path)
    assert "is in use by process 7 on elsewhere since 2026-01-02 03:04:05 (its last sign of life was 10" in message
    assert "a lock is taken over after 300 s without one" in message
    write_lock(tmp_path, there, silent_for=400)
    with claim(tmp_path) as opened:
        assert opened.warnings == (
            f"{tmp_path}: taken over from process 7 on elsewhere since 2026-01-02 03:04:05, which gave no sign of life",
        )


def test_without_locks_of_the_system_the_process_in_the_file_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    here = this_process()
    write_lock(tmp_path, here, silent_for=400)
    assert "is in use by this process" in error(claim, tmp_path)
    write_lock(tmp_path, Process(here.host, here.pid, "1"), silent_for=0)  # the number is used again
    with claim(tmp_path):
        pass


def test_a_process_that_lost_its_folder_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    with claim(tmp_path / "run") as opened:
        opened.check()
        (tmp_path / "run" / LOCK).unlink()
        write_lock(tmp_path / "run", Process("elsewhere", 7, "1"), silent_for=0)
        end = time.monotonic() + 20
        while not opened.lock.is_lost and time.monotonic() < end:
            time.sleep(0.01)
        assert "another process took this folder over" in error(opened.check)
    assert (tmp_path / "run" / LOCK).is_file()  # it is not ours


def test_a_live_process_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    with claim(tmp_path / "run"):
        os.utime(tmp_path / "run" / LOCK, (1, 1))
        end = time.monotonic() + 20
        while (tmp_path / "run" / LOCK).stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert (tmp_path / "run" / LOCK).stat().st_mtime > time.time() - 60


def test_two_runs_of_one_second_get_two_folders(tmp_path):
    with claim_new(tmp_path / "sst-equal") as first, claim_new(tmp_path / "sst-equal") as second:
        assert [first.path.name, second.path.name] == ["sst-equal", "sst-equal-2"]


# Places that cannot be used


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("rows.csv", "is a file; expected a folder"),
        ("rows.csv/a/run", "cannot be written (Not a directory); choose another folder"),
        ("nowhere", "cannot be written (Not a directory); choose another folder"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_one_line(tmp_path, place, message):
    (tmp_path / "rows.csv").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    assert error(claim, tmp_path / place) == f"--output: {tmp_path / place} {message}".replace(
        f"{place} cannot", f"{place}: cannot"
    )


def test_only_a_run_is_resumed_or_replaced(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert "is not empty: add --resume to resume the run in it, or --overwrite" in error(claim, tmp_path)
    assert "is not a run folder, so nothing in it is deleted" in error(claim, tmp_path, overwrite=True)
    assert "is not a run folder, so there is none to resume" in error(claim, tmp_path, resume=True)
    assert "exclude each other" in error(claim, tmp_path, resume=True, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# Replacing


def test_replacing_a_run_removes_what_it_wrote_and_names_the_rest(run):
    (run / "notes.txt").write_text("mine")
    (run / "encoder" / "mine.json").write_text("mine")
    (run / "predictions" / "plot.png").write_text("mine")
    (run / ".writing~nobody").write_text("mine")  # not a name that scratch files have
    with claim(run, overwrite=True) as opened:
        assert (run / "run.json").is_file()  # nothing is removed before the new run can begin
        assert opened.clear() == ["encoder", "notes.txt", "predictions"]
    left = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert left == [".writing~nobody", "encoder/mine.json", "notes.txt", "predictions/plot.png"]


def test_a_link_to_a_run_is_emptied_and_stays(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    with claim(tmp_path / "link", overwrite=True) as opened:
        assert opened.clear() == []
    assert (tmp_path / "link").is_symlink()
    assert list(run.iterdir()) == []


# The configuration


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text()[:-100]),
        lambda path: path.write_text(path.read_text().replace("seed: 42", "seed: 43")),
        lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    ],
)
def test_a_lost_configuration_comes_from_the_checkpoint_else_from_run_json(run, damage):
    expected = stored_config(read_record(run)).plain()
    assert stored_layer(run).values == expected
    damage(run / "config.yaml")
    state = inspect_folder(run, resume=True, overwrite=False)
    assert state.stored.values == expected
    (warning,) = state.warnings
    assert warning.startswith(f"{run}/config.yaml: is ")
    assert f"using the configuration in {run}/checkpoints/step-6, and writing it again" in warning
    for path in sorted((run / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert stored_layer(run).values == expected
    (run / "run.json").unlink()
    (run / "config.yaml").write_text("")
    state = inspect_folder(run, resume=True, overwrite=False)
    assert state.stored is None
    assert "nothing else in the folder holds the configuration; give it again" in state.warnings[0]


def test_the_configuration_is_still_a_recipe(run, tmp_path):
    from mtlcli.config.layers import read_recipe

    config = stored_config(read_record(run))
    write_config(tmp_path, config)
    assert read_recipe(tmp_path / "config.yaml").values == config.plain()


def test_a_damaged_checkpoint_is_a_warning_and_an_older_one_is_resumed(run):
    older = run / "checkpoints" / "step-3"
    (run / "checkpoints" / "step-6").rename(older)
    newer = run / "checkpoints" / "step-6"
    newer.mkdir()
    state = inspect_folder(run, resume=True, overwrite=False)
    assert state.checkpoint.folder == older
    assert state.warnings == (
        f"{newer}: skipped: manifest.json is missing or not readable", f"{run}: resuming from step 3 instead",
    )  # fmt: skip
