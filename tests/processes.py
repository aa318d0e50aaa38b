"""Start processes that train together, as torchrun does, and read what they leave."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

import preloaded
from small import small_values

ROOT = Path(__file__).parent.parent
TESTS = Path(__file__).parent
SECONDS = 240


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank: int, size: int, port: int, starter: str, **further: str) -> dict[str, str]:
    """The variables that torchrun or srun sets, as far as they are read."""
    names = (
        {
            "SLURM_PROCID": rank, "SLURM_NTASKS": size, "SLURM_LOCALID": rank, "SLURM_STEP_ID": 0, "SLURM_JOB_ID": 7,
            "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_TASKS_PER_NODE": size, "MASTER_PORT": port,
        }
        if starter == "slurm"
        else {
            "RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
    )  # fmt: skip
    paths = os.pathsep.join([str(ROOT), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {name: str(value) for name, value in names.items()}
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **own, **further}


def start_one(
    command: list[str],
    rank: int,
    size: int,
    port: int,
    starter: str = "torchrun",
    folder: Path | None = None,
    python: list[str] | None = None,
    **further: str,
) -> subprocess.Popen[str]:
    """Start the process of one rank."""
    return subprocess.Popen(
        [*(python or preloaded.python()), *command], env=environment(rank, size, port, starter, **further), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip


def start(
    command: list[str],
    size: int,
    starter: str = "torchrun",
    folders: list[Path] | None = None,
    python: list[str] | None = None,
    **further: str,
) -> list[subprocess.Popen[str]]:
    """Start one process for each rank, in its folder; their output is read by `ended`.

    Args:
        python: the interpreter, where a process is to be stopped or must be gone as soon as it is killed.
    """
    port = free_port()
    each_in = [None] * size if folders is None else folders
    return [start_one(command, rank, size, port, starter, each_in[rank], python, **further) for rank in range(size)]


def ended(processes: list[subprocess.Popen[str]], seconds: float = SECONDS) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each process; all are killed where one takes too long."""
    try:
        texts = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def together(command: list[str], size: int, starter: str = "torchrun", **further: str) -> list[tuple[int, str, str]]:
    """Run a command in processes that train together."""
    return ended(start(command, size, starter, **further))


def recipe(files: Path, folder: Path, **training: object) -> str:
    """A recipe of the small run, whose numbers do not depend on the processes."""
    values = small_values(files)
    values["training"] |= {"dropout_by": "row", "batch_size": 6, **training}
    values |= {"balancer": "uncertainty", "gradient_regularizer": "pcgrad"}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_numbers(found: Path, expected: Path, rel: float = 1e-4) -> None:
    ours, theirs = metrics(found), metrics(expected)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() and one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=rel, abs=1e-6)
