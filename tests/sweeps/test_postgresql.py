"""Two workers that share a PostgreSQL server, one of which is killed; skipped where there is no server to start."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mtlcli.runs import checkpoint
from small import small_values, write_files

pytest.importorskip("optuna")
pytest.importorskip("psycopg")


def programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "initdb").exists()), None)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
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
    call(
        str(place / "pg_ctl"),
        "-D",
        data,
        "-w",
        "-o",
        f"-p {port} -k {folder} -c listen_addresses=127.0.0.1",
        "-l",
        f"{folder}/log",
        "start",
    )
    yield f"postgresql+psycopg://mtl@127.0.0.1:{port}/postgres"
    call(str(place / "pg_ctl"), "-D", data, "-m", "immediate", "stop")


@pytest.mark.slow
def test_no_trial_is_lost_or_run_twice_when_a_worker_is_killed(url, tmp_path):
    values = small_values(write_files(tmp_path / "files"))
    values["training"] |= {"steps": 12, "save_every": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "space.yaml").write_text("optimizer.lr: {log: [1e-4, 1e-2]}\nbalancer: [equal, uncertainty]\n")
    output = tmp_path / "sweep"
    command = [
        sys.executable, "-m", "mtlcli", "sweep", "--config", str(tmp_path / "recipe.yaml"), "--space", str(tmp_path / "space.yaml"), "-o",
        str(output), "--trials", "6", "--no-pruning", "--storage", url,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    first = start()
    while not any(step > 1 for step in checkpoint.steps(output / "trials" / "000" / "checkpoints")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second = start("--resume")
    first.kill()
    first.communicate()
    third = start("--resume")
    texts = [worker.communicate(timeout=240)[0] for worker in (second, third)]
    assert [second.returncode, third.returncode] == [0, 0], texts
    trials = json.loads((output / "trials.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["done"] * 6, texts
    assert sorted(trial["place"] for trial in trials) == sorted({trial["place"] for trial in trials})
    assert sum(trial["attempts"] for trial in trials) == 7
    for trial in trials:
        lines = (output / trial["place"] / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines if json.loads(line)["kind"] == "step"]
        assert steps == list(range(1, 13))
