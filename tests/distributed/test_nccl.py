"""Two processes exchange through NCCL and train as one does. They share a GPU and call themselves two hosts, as NCCL refuses two
processes of one host on one GPU; rows travel over the loopback interface."""

import pytest
import torch

import processes
from joint_runs import METHODS, case, must_be_equal, run
from small import write_files

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SHARDED = ("equal", "pcgrad", "gradvac", "micro-batches")
"""Methods that run with a sharded encoder too."""


def together(command: list[str], size: int) -> list[tuple[int, str, str]]:
    """Run a command in processes that are each the only one of a host."""
    port = processes.free_port()
    host = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NCCL_SOCKET_IFNAME": "lo"}
    return processes.ended(
        [processes.start_one(command, rank, size, port, **host, NCCL_HOSTID=f"host-{rank}") for rank in range(size)]
    )


def test_two_processes_train_as_one(tmp_path):
    files = write_files(tmp_path / "files")
    cases = []
    for name, sections in METHODS.items():
        for sharding in ("none", "full") if name in SHARDED else ("none",):
            training = {"device": "cuda", "precision": "fp32", "sharding": sharding, **sections.get("training", {})}
            cases.append(case(f"{name}-{sharding}", files, **{**sections, "training": training}))
    (alone,) = run(cases, 1, tmp_path)
    must_be_equal(alone, cases, 2, tmp_path, together, within=1e-4)
