"""Convert values of a recipe before they are validated: columns by number, lists as texts, shares of rows."""

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
