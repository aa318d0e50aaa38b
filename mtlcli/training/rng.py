"""The random state that dropout draws from, saved to repeat a pass with the same masks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def random_states(device: torch.device) -> list[Tensor]:
    """Return torch's global random states: of the CPU, and of the device if it is a GPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


@contextmanager
def replayed(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Repeat the random numbers drawn after `states` were recorded; the random state outside the block is unchanged."""
    before = random_states(device)
    set_random_states(states, device)
    try:
        yield
    finally:
        set_random_states(before, device)


def set_random_states(states: list[Tensor], device: torch.device) -> None:
    """Restore what `random_states` returned for a device."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


def random_state() -> dict[str, Tensor]:
    """Return the states of torch's generators on the CPU and on every GPU."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_state(states: Mapping[str, Tensor]) -> None:
    """Restore torch's generators, ignoring the states of GPUs that this machine lacks."""
    torch.set_rng_state(states["cpu"])
    if torch.backends.mps.is_available() and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
    # A run may be resumed on a machine with another number of GPUs.
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda.{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda.{index}"], index)
