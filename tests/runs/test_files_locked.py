"""`files.locked`: one process at a time, also where the file of the lock is made again meanwhile."""

import subprocess
import sys

CODE = """
import sys, time
from pathlib import Path
from mtlcli.files import locked
place = Path(sys.argv[1])
for _ in range(20):
    with locked(place / "a.lock"):
        count = int((place / "count").read_text())
        time.sleep(0.002)
        (place / "count").write_text(str(count + 1))
"""


def test_processes_take_turns(tmp_path):
    (tmp_path / "count").write_text("0")
    started = [subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in started] == [0] * 4
    assert (tmp_path / "count").read_text() == "80"
