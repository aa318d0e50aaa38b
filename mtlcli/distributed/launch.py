"""What started this process: torchrun, Slurm's srun, or nothing that starts several; read from environment variables."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mtlcli.errors import MtlError

SWITCH = "MTL_RANKS"
"""Environment variable that turns the detection off with the value `off`."""
FIRST_PORT, PORTS = 15_000, 20_000
STEP_PORTS = 101
"""Distance of the ports of two steps of a job of Slurm; more than 1, because the next job has the next number."""


@dataclass(frozen=True)
class Launch:
    """Describe the place of this process among those that were started together.

    Attributes:
        rank: number of the process among all, from 0.
        size: number of processes.
        local_rank: number of the process on its machine.
        local_size: processes on this machine.
        address, port: where the first process listens.
        starter: what started the processes.
        restarts: how often the starter has started them again.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""
    port: int = 0
    starter: Literal["alone", "torchrun", "slurm"] = "alone"
    restarts: int = 0


def find_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Return what started this process. The variables of torchrun win over those of Slurm.

    Raises:
        MtlError: the variables contradict each other, or some are missing.
    """
    values = os.environ if environment is None else environment
    if values.get(SWITCH, "").lower() == "off":
        return Launch()
    if "WORLD_SIZE" in values or "RANK" in values:
        return _from_torchrun(values)
    # A batch script or an interactive shell has SLURM_NTASKS too, but starts one process; srun sets the step's number.
    if int(values.get("SLURM_NTASKS") or 1) > 1 and "SLURM_STEP_ID" in values and "SLURM_PROCID" in values:
        return _from_slurm(values)
    return Launch()


def _from_torchrun(values: Mapping[str, str]) -> Launch:
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not values.get(name)]
    # A single process has no other process to meet and needs no address.
    if missing == ["MASTER_ADDR", "MASTER_PORT"] and values["WORLD_SIZE"] == "1":
        return Launch(restarts=_number(values, "TORCHELASTIC_RESTART_COUNT", 0))
    if missing:
        raise MtlError(
            f"{missing[0]}: is not set, but {'WORLD_SIZE' if 'WORLD_SIZE' in values else 'RANK'} is; start the processes with "
            f"torchrun, or set {SWITCH}=off to train in this process alone"
        )
    rank, size = _number(values, "RANK"), _number(values, "WORLD_SIZE")
    if not 0 <= rank < size:
        raise MtlError(f"RANK: found {rank}: expected 0 to {size - 1} for WORLD_SIZE {size}")
    return Launch(
        rank, size, _number(values, "LOCAL_RANK", rank), _number(values, "LOCAL_WORLD_SIZE", size), values["MASTER_ADDR"],
        _number(values, "MASTER_PORT"), "torchrun", _number(values, "TORCHELASTIC_RESTART_COUNT", 0),
    )  # fmt: skip


def _from_slurm(values: Mapping[str, str]) -> Launch:
    rank, size = _number(values, "SLURM_PROCID"), _number(values, "SLURM_NTASKS")
    address = values.get("MASTER_ADDR") or _first_host(values.get("SLURM_STEP_NODELIST", ""))
    # Derived from the number of the job: all its processes compute the same port, and other jobs rarely do.
    # Several steps of a job can run at once, so each has ports of its own.
    step = _number(values, "SLURM_JOB_ID", 0) + STEP_PORTS * _number(values, "SLURM_STEP_ID", 0)
    port = _number(values, "MASTER_PORT", FIRST_PORT + step % PORTS)
    # "2(x3),1" for three machines with two processes and one with one.
    of_machines = re.match(r"\d+", values.get("SLURM_STEP_TASKS_PER_NODE", ""))
    local_size = int(of_machines[0]) if of_machines else size
    return Launch(
        rank, size, _number(values, "SLURM_LOCALID", 0), local_size, address, port, "slurm",
        _number(values, "SLURM_RESTART_COUNT", 0),
    )  # fmt: skip


def _first_host(nodes: str) -> str:
    """Return the first machine of a list such as `node[01-04,07]`."""
    if not nodes:
        raise MtlError("SLURM_STEP_NODELIST: is not set; set MASTER_ADDR to the machine of the first process")
    if "[" not in nodes:
        return nodes.partition(",")[0]
    try:
        lines = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=30
        ).stdout.split()
    except (OSError, subprocess.SubprocessError):
        lines = []
    # The first name of the bracket, where scontrol is missing.
    first = re.match(r"([^\[,]*)\[(\w+)", nodes)
    return lines[0] if lines else f"{first[1]}{first[2]}" if first else nodes.partition(",")[0]


def _number(values: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = values.get(name, "")
    if not text and default is not None:
        return default
    try:
        return int(text)
    except ValueError:
        raise MtlError(f'{name}: found "{text}": expected a number') from None
