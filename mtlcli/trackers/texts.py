"""What trackers show of a run besides numbers: its name and group, its plan in Markdown, and its configuration."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mtlcli.config.layers import dump
from mtlcli.config.schema import Config
from mtlcli.runs.names import SEEDS, STUDY
from mtlcli.runs.plan import Plan

LONGEST_VALUE = 6000
"""Characters of a configured value; MLflow takes no more."""
DEPTH = 4
"""Folders between a study and its runs, at most."""

COLUMNS = (
    ("task", "name"),
    ("training rows", "rows"),
    ("dev rows", "dev_rows"),
    ("rows per batch", "batch_size"),
    ("batches per step", "batches_per_step"),
    ("share of the batches", "share"),
    ("passes over the rows", "passes"),
    ("truncated texts", "truncated"),
    ("encoding", "encoding"),
    ("head", "head"),
)


def name_and_group(folder: Path) -> tuple[str, str]:
    """Return the name of a run, and that of the study or the folder of seeds that it is part of, empty for a single run."""
    # A path such as `.` has no name before.
    folder = folder.resolve()
    # The study comes first, because its runs are in folders of seeds as well.
    group = next((parent for parent in islice(folder.parents, DEPTH) if (parent / STUDY).is_file()), None)
    if group is None and (folder.parent / SEEDS).is_file():
        group = folder.parent
    if group is None:
        return folder.name, ""
    return f"{group.name}/{folder.relative_to(group).as_posix()}", group.name


def flat_config(config: Config) -> dict[str, str]:
    """Return the configuration by dotted key, without its trackers, as texts of at most `LONGEST_VALUE` characters."""
    return {
        key: text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
        for key, text in _flat(_plain(config))
    }


def _plain(config: Config) -> dict[str, Any]:
    return {key: value for key, value in config.plain().items() if key != "trackers"}


def _flat(value: Any, above: str = "") -> Iterator[tuple[str, str]]:
    # An empty mapping or list is shown as a value.
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in items:
            yield from _flat(below, f"{above}{key}.")
    else:
        yield above[:-1], {None: "null", True: "true", False: "false"}[value] if _is_word(value) else str(value)


def _is_word(value: object) -> bool:
    # 1 == True, so the mapping in `_flat` would turn the number 1 into `true`.
    return value is None or isinstance(value, bool)


def recipe_text(config: Config) -> str:
    """Return the configuration as a block of YAML, without its trackers."""
    return f"```yaml\n{dump(_plain(config))}```\n"


def plan_text(plan: Plan) -> str:
    """Return the plan of a run in Markdown: a table of its tasks, its length and methods, notes and warnings."""
    rows = [[_cell(getattr(task, field)) for _, field in COLUMNS] for task in plan.tasks]
    lines = [
        f"| {' | '.join(title for title, _ in COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"{plan.steps} steps in {len(plan.epoch_ends)} epochs; scheduler {plan.scheduler}, balancer {plan.balancer}; encoder "
        f"{plan.encoder} with {plan.encoder_parameters:,} parameters on {plan.device} in {plan.precision}",
        "",
        *(f"- {note}" for note in plan.notes),
        *(f"- warning: {warning}" for warning in plan.warnings),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
