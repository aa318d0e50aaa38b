"""Runs that torchrun starts: on one machine, after a process has died, and on two hosts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtlcli.runs import checkpoint
from processes import ROOT, TESTS, free_port, metrics, recipe, same_numbers
from small import write_files

SECONDS = 300


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


def clean_environment(**further: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(TESTS)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **further}


def workers_of(agent: int) -> dict[int, int]:
    """Process numbers of the processes that an agent of torchrun has started, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                variables = (folder / "environ").read_text().split("\0")
            except (OSError, IndexError):
                continue
            ranks = [value.removeprefix("RANK=") for value in variables if value.startswith("RANK=")]
            if parent == agent and ranks:
                found[int(ranks[0])] = int(folder.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_killed_process_is_started_again_and_the_run_ends_as_if_unbroken(files, tmp_path):
    path = recipe(files, tmp_path, save_every=1)
    alone = [sys.executable, "-m", "mtlcli", "train", "--config", path, "--output", str(tmp_path / "one"), "-q"]
    assert subprocess.run(alone, env=clean_environment(), timeout=SECONDS).returncode == 0
    output = tmp_path / "run"
    agent = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "--max-restarts",
            "3", "-m", "mtlcli", "train", "--config", path, "--output", str(output), "-q",
        ],
        env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        while not any(step > 3 for step in checkpoint.steps(output / "checkpoints")):
            assert agent.poll() is None, agent.communicate()
            time.sleep(0.02)
        os.kill(workers_of(agent.pid)[1], signal.SIGKILL)
        text, _ = agent.communicate(timeout=SECONDS)
    finally:
        agent.kill()
    assert agent.returncode == 0, text
    # Either the other process notices first, or torchrun, which then ends it.
    assert re.search(r"process 1 .*ended or does not answer|local_rank: 1", text), text
    same_numbers(output, tmp_path / "one")
    assert (output / "results.json").is_file()


@pytest.mark.slow
def test_two_hosts_train_one_run(files, tmp_path):
    path = recipe(files, tmp_path)
    output = tmp_path / "run"
    script = Path(__file__).parent / "two_hosts.sh"
    ended = subprocess.run(
        [str(script), "-m", "mtlcli", "train", "--config", path, "--output", str(output), "-q"],
        env=clean_environment(PYTHON=sys.executable), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
    )  # fmt: skip
    if ended.returncode == 77:
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, ended.stdout
    assert json.loads((output / "environment.json").read_text())["processes"] == 2
    assert metrics(output)[-1]["step"] == 12
