"""Numbers as files write them."""

import math

import numpy as np


def number_in(text: str) -> float | None:
    """Return a finite number; None for `nan`, `1_000` and everything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def exact_numbers(array: np.ndarray) -> list[float]:
    """Return numbers (n,) with as few digits as identify each in the array's precision: 0.1, not 0.10000000149 for a float32."""
    return [float(str(number)) for number in array]
