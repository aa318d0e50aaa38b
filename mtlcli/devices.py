"""Which device and precision a run uses."""

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


def find_device(name: str) -> torch.device:
    """The device of a name; `auto` takes a GPU where there is one. Raises MtlError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise MtlError(f'training.device: found "{name}": expected auto, cpu, cuda, cuda:1 or mps') from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise MtlError(f'training.device: found "{name}": this machine has {count} usable GPU(s); use auto or cpu')
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MtlError(f'training.device: found "{name}": this machine has none; use auto or cpu')
    return device


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device: through pinned memory and without waiting to a GPU, float64 as float32 to any other one."""
    if device.type == "cpu":
        return tensor
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return (tensor.float() if tensor.dtype == torch.float64 else tensor).to(device)


def find_precision(name: str, device: torch.device) -> str:
    """fp32 or bf16. `auto` is bf16 on GPUs that have it and fp32 elsewhere.

    On a CPU bf16 has to be asked for and is refused without native support, where it would be many times slower.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if name == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise MtlError("training.precision: found bf16: this CPU has no native support for it; use auto or fp32")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise MtlError("training.precision: found bf16: this GPU has no native support for it; use auto or fp32")
    return name


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context of every forward pass; may be entered again and again."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=torch.bfloat16)


def not_enough_memory(task: str, texts: int, length: int) -> MtlError:
    """The error for a batch that did not fit, with what to change."""
    return MtlError(
        f"{task}: not enough memory for {texts} texts of {length} tokens: lower --batch-size (and raise --micro-batches), "
        "lower --max-length, or choose a smaller --encoder"
    )


def peak_memory() -> int:
    """Most memory this process has held, in bytes: on the GPU where one is used, else of the whole process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_environment(device: torch.device, seed: int) -> dict[str, Any]:
    """Versions, machine, device and the state of the git checkout one stands in, if any."""
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
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
