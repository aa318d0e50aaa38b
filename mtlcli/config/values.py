"""Convert values of a recipe before they are validated: columns by number, lists as texts, shares of rows."""

import math
import re
from typing import Any


def listed(value: Any) -> Any:
    """Split `a, b`, as `--set` passes a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def column_name(value: Any) -> Any:
    """Return the text for a number: a column may be given by its number."""
    # bool is a subclass of int.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def share_of(text: str) -> float | None:
    """Return the share that a percentage such as `10%` stands for; None for every other text, such as the name of a file."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%\s*", text)
    return float(match[1]) / 100 if match else None


def weights_of_classes(value: Any) -> Any:
    """Check the weights of classes.

    Raises:
        ValueError: they are neither a rule nor numbers by name.
    """
    if isinstance(value, dict):
        if value and all(_is_weight(weight) for weight in value.values()):
            return {str(column_name(name)): float(weight) for name, weight in value.items()}
    elif value in ("auto", "auto-sqrt") or value is None:
        return value
    raise ValueError("expected auto, auto-sqrt, or weights >= 0 of classes by name, such as {rare: 4}")


def _is_weight(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 0 <= float(value) < math.inf
    except (TypeError, ValueError):
        return False
