"""What may differ between a run and its resumption."""

from typing import Any

from mtlcli.config import TASK_FILES, Config
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
