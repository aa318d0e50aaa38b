"""Rounds in which every variant does the same work once. The order rotates, so that a slow moment of the machine meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Work = TypeVar("Work")


def seconds_of(
    variants: Mapping[str, Callable[[Work], object]],
    work: Callable[[int], Work],
    rounds: int,
    device: torch.device | str = "cpu",
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Return the seconds of each variant in each round.

    Args:
        work: returns what all variants do in a round of this number, such as its batches; not timed.
        warm_up: rounds before the first one that counts.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds + warm_up):
        of_round = work(number)
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            variants[name](of_round)
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: values[warm_up:] for name, values in times.items()}


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return the median over rounds of the time of one variant over that of another in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def milliseconds(times: Mapping[str, list[float]], name: str) -> float:
    """Return the median time of a variant."""
    return 1000 * statistics.median(times[name])


def machine(rounds: int) -> str:
    """Return the version of PyTorch, the threads and the rounds, for the first line of a result."""
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds"
