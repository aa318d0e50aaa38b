"""The device and precision of a run, and what the machine reports about itself."""

import platform
import resource
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

import torch

from mtlcli import __version__
from mtlcli.errors import MtlError


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out: on a CPU PyTorch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The message of PyTorch's DefaultCPUAllocator.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def find_device(name: str, local_rank: int | None = None) -> torch.device:
    """Return the device of a name; `auto` is a GPU if there is one.

    Args:
        local_rank: number of this process on its machine, which is that of its GPU; None for a process that runs alone.

    Raises:
        MtlError: this machine lacks the device, or several processes would use one GPU.
    """
    if local_rank is not None and name.startswith("cuda:"):
        raise MtlError(
            f'training.device: found "{name}": with several processes, each uses a GPU of its own; use auto or cuda'
        )
    if local_rank is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise MtlError(f'training.device: found "{name}": expected auto, cpu, cuda, cuda:1 or mps') from None
    # torch.device accepts an index that does not exist; PyTorch would report it only at the first use.
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise MtlError(f'training.device: found "{name}": this machine has {count} usable GPU(s); use auto or cpu')
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MtlError(f'training.device: found "{name}": this machine does not support MPS; use auto or cpu')
    return device


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device: to a GPU asynchronously through pinned memory, elsewhere with float64 as float32."""
    if device.type == "cpu":
        return tensor
    if device.type == "cuda":
        # `non_blocking` has an effect only from pinned memory; a copy from pageable memory would block this thread.
        return tensor.pin_memory().to(device, non_blocking=True)
    # MPS has no float64.
    return (tensor.float() if tensor.dtype == torch.float64 else tensor).to(device)


def find_precision(name: str, device: torch.device) -> str:
    """Return fp32 or bf16. `auto` is bf16 on GPUs that support it and fp32 elsewhere.

    On a CPU, bf16 must be set explicitly and is rejected without native support, because it would be many times slower.

    Raises:
        MtlError: the device has no native bf16.
    """
    if name == "auto":
        # By default PyTorch also counts GPUs that emulate bf16, which is slow.
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # On a CPU without native support, autocast was measured to be 25 times slower than fp32.
    if name == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise MtlError("training.precision: found bf16: this CPU has no native bf16 support; use auto or fp32")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise MtlError("training.precision: found bf16: this GPU has no native bf16 support; use auto or fp32")
    return name


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the autocast context of forward passes, which can be entered repeatedly."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=torch.bfloat16)


def not_enough_memory(task: str, texts: int, length: int) -> MtlError:
    """Return the error for a batch that did not fit, with the options to change."""
    return MtlError(
        f"{task}: not enough memory for {texts} texts of {length} tokens: lower --batch-size (and raise --micro-batches), "
        "lower --max-length, or choose a smaller --encoder"
    )


def peak_memory() -> int:
    """Return the peak memory of this process in bytes: GPU memory if a GPU is in use, else resident memory."""
    # A run on the CPU of a machine with a GPU does not initialize CUDA.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_environment(device: torch.device, seed: int) -> dict[str, Any]:
    """Return versions, machine, device, and the state of the git checkout in the current folder, if any."""
    versions = {
        name: metadata.version(name)
        for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic")
    }
    return {
        "mtlcli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git": _git(),
        "versions": versions,
    }


def _git() -> str | None:
    try:
        process = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=5,  # a huge checkout, or one on a slow network drive
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None
