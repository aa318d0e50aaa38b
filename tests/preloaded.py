"""Start Python processes that have PyTorch and transformers imported already.

The imports take most of the time of a short command, several seconds each. A server makes them once and forks: `python()` is a
command that takes the place of `sys.executable`, for `-m MODULE ...`, `-c CODE ...` or `SCRIPT ...`, with its own environment,
folder, standard streams, signals and exit code. Every process imports mtlcli itself.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "preloading"


@cache
def python() -> list[str]:
    """Return the command, and start the server at the first call. Where the system cannot do this, it is the interpreter."""
    if not hasattr(os, "pidfd_open"):
        return [sys.executable]
    folder = tempfile.mkdtemp(prefix="python-")
    socket = f"{folder}/socket"
    # The server ends with the pipe, so with this process, however it ends.
    server = subprocess.Popen(
        [sys.executable, str(FOLDER / "server.py"), socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )
    if not server.stdout.readline():  # type: ignore[union-attr]
        raise RuntimeError("the server of preloaded processes did not start")

    def end() -> None:
        server.stdin.close()  # type: ignore[union-attr]
        server.wait()
        server.stdout.close()  # type: ignore[union-attr]
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return [sys.executable, "-I", "-S", str(FOLDER / "client.py"), socket]
