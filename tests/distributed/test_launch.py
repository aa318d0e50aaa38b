"""What the variables of torchrun and Slurm say about a process."""

from types import SimpleNamespace

import pytest

from mtlcli.distributed.launch import Launch, find_launch
from mtlcli.distributed.world import World, first_sentence, step_seconds
from mtlcli.errors import MtlError
from mtlcli.training import run
from small import small_config, write_files

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host1", "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
STEP = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "20007",
    "SLURM_STEP_NODELIST": "node[07-09]", "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_RESTART_COUNT": "1",
}  # fmt: skip


def test_torchrun():
    assert find_launch(TORCHRUN) == Launch(3, 8, 1, 2, "host1", 29500, "torchrun", 2)


def test_srun():
    assert find_launch(STEP) == Launch(5, 6, 1, 2, "node07", 15_007, "slurm", 1)


def test_torchrun_within_a_job_of_slurm_wins():
    assert find_launch(STEP | TORCHRUN).starter == "torchrun"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            name: value for name, value in STEP.items() if name != "SLURM_STEP_ID"
        },  # a batch script or an interactive shell
        STEP | {"SLURM_NTASKS": "1"},
        TORCHRUN | {"MTL_RANKS": "off"},
        STEP | {"MTL_RANKS": "off"},
    ],
)
def test_a_process_that_is_alone(values):
    assert find_launch(values) == Launch()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"WORLD_SIZE": "2"}, "RANK: is not set, but WORLD_SIZE is"),
        (TORCHRUN | {"RANK": "8"}, "RANK: found 8: expected 0 to 7 for WORLD_SIZE 8"),
        (TORCHRUN | {"MASTER_PORT": "x"}, 'MASTER_PORT: found "x": expected a number'),
        (
            {name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"},
            "SLURM_STEP_NODELIST: is not set",
        ),
    ],
)
def test_variables_that_make_no_sense(values, line):
    with pytest.raises(MtlError, match=line):
        find_launch(values)


@pytest.mark.parametrize(("count", "size"), [(7, 2), (7, 3), (1, 4), (8, 8), (0, 2)])
def test_shares_are_disjoint_complete_and_differ_by_one_row(count, size):
    shares = [list(range(count))[World(Launch(rank, size)).share(count)] for rank in range(size)]
    assert sorted(row for share in shares for row in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("restarts", "alone", "notes"), [("3", False, 1), ("0", False, 0), ("3", True, 0)])
def test_a_run_that_a_restart_would_not_find_is_noted(tmp_path, monkeypatch, restarts, alone, notes):
    config = small_config(write_files(tmp_path))
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    monkeypatch.setattr(run, "world", lambda: SimpleNamespace(is_alone=alone))
    opened = run.open_training(lambda *_: config, None)
    assert len(opened.notes) == notes and all("--output" in note for note in opened.notes)


def test_two_steps_of_a_job_have_ports_of_their_own():
    assert find_launch(STEP | {"SLURM_STEP_ID": "3"}).port == 15_007 + 3 * 101


def test_seconds_of_a_step_that_are_no_number_are_not_taken_for_a_fault_of_the_network(monkeypatch):
    monkeypatch.setenv("MTL_STEP_SECONDS", "7.5")
    assert step_seconds() == 7.5
    for text in ("30s", "0", "-1", "inf"):
        monkeypatch.setenv("MTL_STEP_SECONDS", text)
        with pytest.raises(MtlError, match=f'MTL_STEP_SECONDS: found "{text}"'):
            step_seconds()


def test_an_error_of_the_connection_is_its_first_sentence_without_the_place_in_its_source():
    text = "[/__w/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:23951. Check the logs."
    assert first_sentence(RuntimeError(text)) == "Connection closed by peer [127.0.0.1]:23951"
    assert first_sentence(RuntimeError("Timed out\nC++ stack:")) == "Timed out"
    assert first_sentence(RuntimeError()) == "RuntimeError"
