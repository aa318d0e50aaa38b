"""Compare configurations: which keys may change on resuming a run, and which between the calls of a study."""

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
"""Keys that do not affect the training so far; the rows themselves are compared by content."""


def check_unchanged(stored: Config, current: Config) -> list[str]:
    """Return one line for each change that is allowed. Trackers may change and have none: they do not affect the run.

    Raises:
        MtlError: one line for each change that is not allowed.
    """
    before, after = _flat(stored.without_trackers().plain()), _flat(current.without_trackers().plain())
    allowed: list[str] = []
    rejected: list[str] = []
    # Checkpoints store tasks by index.
    if set(stored.tasks) == set(current.tasks) and list(stored.tasks) != list(current.tasks):
        rejected.append(f"tasks: were in the order {', '.join(stored.tasks)}, now {', '.join(current.tasks)}")
    for difference, names in (
        ("removed", set(stored.tasks) - set(current.tasks)),
        ("added", set(current.tasks) - set(stored.tasks)),
    ):
        rejected += [f"tasks.{name}: was {difference}" for name in sorted(names)]
    shared_tasks = set(stored.tasks) & set(current.tasks)
    for key in sorted(set(before) | set(after)):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        parts = key.split(".")
        if len(parts) > 1 and parts[0] == "tasks" and parts[1] not in shared_tasks:
            continue  # the task has a line of its own
        # A file is tasks.NAME.dev or tasks.NAME.dev.SET.file. It may move, because rows are compared by content.
        is_file = parts[0] == "tasks" and parts[2:3] and parts[2] in TASK_FILES
        file = is_file and (len(parts) == 3 or parts[4:] == ["file"])
        line = f"{key}: was {old!r}, now {new!r}"
        if key in MAY_CHANGE and new is None:
            continue  # the key that excludes it has its own line
        (allowed if key in MAY_CHANGE or file else rejected).append(line)
    if rejected:
        raise MtlError(*(f"--resume: {line}; give the old value, or start over with --overwrite" for line in rejected))
    return [f"changed on resuming: {line}" for line in allowed]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    # An empty mapping is a value, so that emptying a mapping is a change.
    if isinstance(values, dict) and values:
        return {key: value for name, below in values.items() for key, value in _flat(below, f"{prefix}{name}.").items()}
    return {prefix[:-1]: values}


NO_MATTER = ("training.device", "training.seed", "training.on_nan", "trackers")
"""Keys that may differ between the calls of a study: the device, the seed with which the recipe was read, and trackers."""


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (dotted key, old value, new value) of every difference between two configurations; None for a missing value.

    `stored` may be from an earlier mtlcli: missing keys count as their defaults.
    """
    with suppress(MtlError):  # a plugin that is no longer installed: compare the values as written
        # A copy, because `resolve` changes its layers.
        stored = resolve([Layer(deepcopy(dict(stored)))]).plain()
    return [difference for difference in _unequal(stored, current) if difference[0] not in NO_MATTER]


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> list[tuple[str, Any, Any]]:
    unequal: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*new, *old]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            unequal += _unequal(before, after, f"{above}{key}.")
        elif before != after:
            unequal.append((f"{above}{key}", before, after))
    return unequal


def shown_value(value: Any) -> str:
    """Return a value for a message, truncated to 60 characters."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
