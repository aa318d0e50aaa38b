"""What may differ between a run and its resumption."""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import TASK_FILES, Config
from mtlcli.errors import MtlError

MAY_CHANGE = {
    "data", "training.epochs", "training.steps", "training.eval_every", "training.save_every", "training.keep_last",
    "training.patience", "training.device", "training.on_nan", "training.feature_memory",
}  # fmt: skip
"""Keys that change nothing of what was learned so far; the rows themselves are compared by content."""


def check_unchanged(stored: Config, now: Config) -> list[str]:
    """Lines about changes that are allowed. Raises MtlError with one line for each that is not."""
    before, after = _flat(stored.plain()), _flat(now.plain())
    allowed: list[str] = []
    refused: list[str] = []
    if set(stored.tasks) == set(now.tasks) and list(stored.tasks) != list(now.tasks):
        refused.append(f"tasks: were in the order {', '.join(stored.tasks)}, now {', '.join(now.tasks)}")
    for key in sorted(set(before) | set(after)):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        parts = key.split(".")
        file = len(parts) == 3 and parts[0] == "tasks" and parts[2] in TASK_FILES
        line = f"{key}: was {old!r}, now {new!r}"
        if key in MAY_CHANGE and new is None:
            continue  # its counterpart is named
        (allowed if key in MAY_CHANGE or file else refused).append(line)
    if refused:
        raise MtlError(*(f"--resume: {line}; give the old value, or start anew with --overwrite" for line in refused))
    return [f"changed on resuming: {line}" for line in allowed]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values:
        return {key: value for name, below in values.items() for key, value in _flat(below, f"{prefix}{name}.").items()}
    return {prefix[:-1]: values}


NO_MATTER = ("training.device", "training.seed", "training.on_nan")
"""Where a run is made, and with which seed the recipe was read, may differ between the calls of a study."""


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted keys of two configurations with different values, the old value and the new one; None for what is not there.

    `stored` may be of an earlier mtlcli: keys that it did not know yet count as their defaults.
    """
    with suppress(MtlError):  # such as of a plugin that is no longer installed: then as it is written
        stored = resolve([Layer(deepcopy(dict(stored)))]).plain()
    return [one for one in _unequal(stored, now) if one[0] not in NO_MATTER]


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*new, *old]):
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _unequal(one, other, f"{above}{key}.")
        elif one != other:
            found.append((f"{above}{key}", one, other))
    return found


def shown_value(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
