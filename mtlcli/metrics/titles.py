"""Titles of metrics, under which their values are stored and shown: the name, and what was chosen besides it."""

from collections.abc import Mapping
from typing import Any

WEIGHTED = "weighted"


def title_of(name: str, options: Mapping[str, Any], defaults: Mapping[str, Any], *, weighted: bool) -> str:
    """Return `f1`, `f1[positive=yes]` or `calibration-error[bins=10,weighted]`.

    Values of different options are not comparable, so they must not have the same title.

    Args:
        name: name of the plugin.
        options: all its options.
        defaults: the default of every option that has one; an option with its default value is left out.
        weighted: whether the metric counts each row by its weight.
    """
    parts = [
        f"{option}={value}" for option, value in options.items() if option not in defaults or defaults[option] != value
    ]
    parts += [WEIGHTED] if weighted else []
    # metrics.jsonl separates tasks, sets and metrics by slashes.
    return f"{name}[{','.join(parts).replace('/', '_')}]" if parts else name


def plugin_of(title: str) -> str:
    """Return the name of the plugin in a title."""
    return title.partition("[")[0]


def is_weighted(title: str) -> bool:
    """Return whether a title says that rows are counted by their weights."""
    return title.endswith("]") and title[:-1].partition("[")[2].split(",")[-1] == WEIGHTED
