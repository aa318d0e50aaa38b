"""Start processes that train together, as torchrun does, and read what they leave."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = Path(__file__).parent
SECONDS = 240


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank: int, size: int, port: int, **further: str) -> dict[str, str]:
    """The variables that torchrun sets, as far as they are read."""
    paths = os.pathsep.join([str(ROOT), str(TESTS)])
    return {
        **os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **further,
    }  # fmt: skip


def start(command: list[str], size: int, **further: str) -> list[subprocess.Popen[str]]:
    """Start one process for each rank; their output is read by `ended`."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *command], env=environment(rank, size, port, **further), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def ended(processes: list[subprocess.Popen[str]], seconds: float = SECONDS) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each process; all are killed where one takes too long."""
    try:
        texts = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def together(command: list[str], size: int, **further: str) -> list[tuple[int, str, str]]:
    """Run a command in processes that train together."""
    return ended(start(command, size, **further))
