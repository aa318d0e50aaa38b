"""Two workers that share a PostgreSQL server, one of which is killed; skipped where there is no server to start."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import preloaded
from mtlcli.runs import checkpoint
from small import small_values, write_files

pytest.importorskip("optuna")
pytest.importorskip("psycopg")


def programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "initdb").exists()), None)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = programs()
    if place is None:
        pytest.skip("there is no PostgreSQL here")
    folder = tmp_path_factory.mktemp("server")
    owner = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres to run the server")
        os.chown(folder, account.pw_uid, account.pw_gid)
        for above in (folder, *folder.parents):
            if above != Path("/") and above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
        owner = {"user": account.pw_uid, "group": account.pw_gid}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(*arguments: str) -> None:
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **owner)

    data = str(folder / "data")
    call(str(place / "initdb"), "-D", data, "-A", "trust", "-U", "mtl")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"

    def start() -> None:
        call(str(place / "pg_ctl"), "-D", data, "-w", "-o", options, "-l", f"{folder}/log", "start")

    def stop() -> None:
        """Crash the server; it may have ended already. Not by pg_ctl, whose wait for a busy machine is an error."""
        try:
            pid = int((Path(data) / "postmaster.pid").read_text().split()[0])
        except FileNotFoundError:
            return
        deadline = time.monotonic() + 120
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.05)

    start()
    yield Server(f"postgresql+psycopg://mtl@127.0.0.1:{port}/postgres", start, stop)
    stop()


@dataclass(frozen=True)
class Server:
    """A running server; after `stop`, which is that of a crash, nothing answers until `start`."""

    url: str
    start: Callable[[], None]
    stop: Callable[[], None]


def command_of(server: Server, folder: Path, trials: int) -> list[str]:
    """A sweep over three small tasks with a checkpoint after every step."""
    values = small_values(write_files(folder / "files"))
    values["training"] |= {"steps": 12, "save_every": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    (folder / "space.yaml").write_text("optimizer.lr: {log: [1e-4, 1e-2]}\nbalancer: [equal, uncertainty]\n")
    return [
        *preloaded.python(), "-m", "mtlcli", "sweep", "--config", str(folder / "recipe.yaml"), "--space", str(folder / "space.yaml"), "-o",
        str(folder / "sweep"), "--trials", str(trials), "--no-pruning", "--storage", server.url,
    ]  # fmt: skip


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_steps(worker: subprocess.Popen[str], output: Path, place: str) -> None:
    """Wait until a trial has made two steps."""
    while not any(step > 1 for step in checkpoint.steps(output / "trials" / place / "checkpoints")):
        assert worker.poll() is None, worker.communicate()
        time.sleep(0.01)


def must_be_whole(output: Path, trials: int, attempts: int, texts: list[str]) -> None:
    """Every trial has ended, in a folder of its own, and made each step once."""
    found = json.loads((output / "trials.json").read_text())["trials"]
    assert [trial["state"] for trial in found] == ["done"] * trials, texts
    assert sorted(trial["place"] for trial in found) == sorted({trial["place"] for trial in found})
    assert sum(trial["attempts"] for trial in found) == attempts
    for trial in found:
        lines = (output / trial["place"] / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines if json.loads(line)["kind"] == "step"]
        assert steps == list(range(1, 13))


@pytest.mark.slow
def test_no_trial_is_lost_or_run_twice_when_a_worker_is_killed(server, tmp_path):
    command, output = command_of(server, tmp_path, 6), tmp_path / "sweep"
    first = start(command)
    wait_for_steps(first, output, "000")
    second = start([*command, "--resume"])
    first.kill()
    first.communicate()
    third = start([*command, "--resume"])
    texts = [worker.communicate(timeout=240)[0] for worker in (second, third)]
    assert [second.returncode, third.returncode] == [0, 0], texts
    must_be_whole(output, 6, 7, texts)


@pytest.mark.slow
def test_a_worker_waits_for_a_database_that_crashes_and_comes_back(server, tmp_path):
    command, output = command_of(server, tmp_path, 3), tmp_path / "sweep"
    worker = start(command)
    wait_for_steps(worker, output, "001")
    server.stop()
    time.sleep(5)  # the trial ends meanwhile, and its end cannot be stored
    assert worker.poll() is None
    server.start()
    text = worker.communicate(timeout=240)[0]
    assert worker.returncode == 0, text
    must_be_whole(output, 3, 3, [text])
