"""Where trials are kept: passwords, servers that do not answer, torn journals, and leases."""

import socket
import subprocess
import sys
import threading
import time

import pytest

from mtlcli.errors import MtlError
from mtlcli.sweeps import leases
from mtlcli.sweeps.storage import JOURNAL, masked, open_storage

optuna = pytest.importorskip("optuna")


def test_passwords_are_not_shown():
    assert masked("postgresql://user:secret@host/db") == "postgresql://user:***@host/db"
    assert masked("postgresql://user@host/db") == "postgresql://user@host/db"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("sqlite:///a.db", "SQLite loses trials"),
        ("host/db", "expected a URL"),
        ("nothing://user:secret@host/db", r"nothing://user:\*\*\*@host/db cannot be used"),
    ],
)
def test_urls_of_no_use(tmp_path, url, line):
    with pytest.raises(MtlError, match=line) as caught:
        open_storage(url, tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_a_server_that_never_answers_is_an_error_within_seconds(tmp_path):
    pytest.importorskip("psycopg")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        begin = time.monotonic()
        with pytest.raises(MtlError, match=r"user:\*\*\*@127"):
            open_storage(f"postgresql+psycopg://user:secret@127.0.0.1:{mute.getsockname()[1]}/db", tmp_path)
        assert time.monotonic() - begin < 12


def study_of(folder):
    return optuna.create_study(storage=open_storage(None, folder), study_name="a", load_if_exists=True)


def test_a_torn_line_of_the_journal_is_cut_off_and_kept_aside(tmp_path):
    study = study_of(tmp_path)
    for value in (1.0, 2.0):
        study.tell(study.ask(), value)
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 6, "worker')
    again = study_of(tmp_path)
    assert [trial.value for trial in again.trials] == [1.0, 2.0]
    again.tell(again.ask(), 3.0)
    assert [trial.value for trial in study_of(tmp_path).trials] == [1.0, 2.0, 3.0]
    assert path.with_suffix(".torn").read_bytes() == b'{"op_code": 6, "worker'


def test_a_lease_is_free_again_when_its_process_ends_however_it_ends(tmp_path):
    trial = tmp_path / "trials" / "007"
    code = (
        "import time; from pathlib import Path; from mtlcli.sweeps import leases; "
        f"lease = leases.take(Path({str(trial)!r})); print('has', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "has\n"
        assert leases.take(trial) is None
        process.kill()
        process.wait()
    lease = leases.take(trial)
    assert lease is not None
    lease.release()


def test_one_of_many_takes_a_lease(tmp_path):
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(leases.take(tmp_path / "001"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [lease for lease in taken if lease is not None]
    assert len(taken) == 8 and len(held) == 1
    held[0].release()
