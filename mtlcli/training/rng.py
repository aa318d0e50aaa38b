"""The random state that dropout draws from, to run a pass once more with the same masks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def random_states(device: torch.device) -> list[Tensor]:
    """torch's global states: of the CPU, and of the device where it is a GPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


@contextmanager
def replayed(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """What runs inside draws again what was drawn after `states` were taken; outside nothing has happened."""
    before = random_states(device)
    _set(states, device)
    try:
        yield
    finally:
        _set(before, device)


def _set(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def random_state() -> dict[str, Tensor]:
    """The states of torch's generators on the CPU and on every GPU."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_random_state(states: Mapping[str, Tensor]) -> None:
    """Puts torch's generators back; those of GPUs that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda.{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda.{index}"], index)
