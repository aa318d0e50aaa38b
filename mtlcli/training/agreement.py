"""Whether the processes of a run agree: on configuration, rows and packages before step 1, on the weights whenever it is saved."""

import hashlib
import json
from importlib import metadata

import torch
from torch import Tensor

from mtlcli.config.schema import TASK_FILES
from mtlcli.distributed.sharding import is_divided
from mtlcli.errors import MtlError
from mtlcli.training.setup import TrainingRun


def check_agreement(run: TrainingRun) -> None:
    """Raise MtlError if a process has another configuration, other rows, other packages or another model than the first."""
    if run.world.is_alone:
        return
    values = run.config.plain()
    # Machines may keep the same rows in different places.
    tasks = {
        name: {key: value for key, value in section.items() if key not in TASK_FILES}
        for name, section in values["tasks"].items()
    }
    configuration = {**values, "data": None, "tasks": tasks}
    run.world.must_agree(
        {
            "configuration": _digest(json.dumps(configuration, sort_keys=True, default=str)),
            "packages": {name: metadata.version(name) for name in ("mtlcli", "torch", "transformers", "tokenizers")},
            **{f"rows of {name}": digest for name, digest in run.content().items()},
            "parameters": _digest(str([(name, tuple(p.shape)) for name, p in run.model.named_parameters()])),
            "device and precision": f"{run.device.type} {run.precision}",
        }
    )


def check_equal_weights(run: TrainingRun) -> None:
    """Raise MtlError if the weights or the plugins of the processes have come to differ, which no method may cause."""
    if run.world.is_alone:
        return
    # The parts of a divided tensor differ by design.
    tensors = {name: value for name, value in run.model.state_dict().items() if not is_divided(value)}
    for name, plugin in run.plugins().items():
        tensors |= {f"{name}.{key}": value for key, value in plugin.state_dict().items()}
    sums = {name: _digest_of(value) for name, value in tensors.items()}
    first, *others = run.world.gather(sums)
    for rank, of_rank in enumerate(others, start=1):
        different = [name for name, value in of_rank.items() if first[name] != value]
        if different:
            raise MtlError(
                f"process {rank}: {different[0]} and {len(different) - 1} more tensors differ from those of process 0; a method "
                "depends on rows or random numbers of its own process. This is a bug of mtlcli or of a plugin"
            )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _digest_of(tensor: Tensor) -> str:
    """Return the sha256 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    # Bytes, because NaN is not equal to itself, and NumPy has no bfloat16.
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
