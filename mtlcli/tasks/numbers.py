"""Numbers as files write them."""

import math


def number_in(text: str) -> float | None:
    """Return a finite number; None for `nan`, `1_000` and everything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None
