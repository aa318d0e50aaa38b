"""Divide the dev rows of every task: one part chooses among the trials, the other one judges the best."""

from copy import deepcopy
from typing import Any

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config, TaskConfig
from mtlcli.data.task_sources import find_source
from mtlcli.errors import MtlError

CHOOSE, CONFIRM = "choose", "confirm"
"""Evaluation sets of a task whose dev rows are divided."""
CONFIRMING = f"dev.{CONFIRM}"


def with_holdout(base: Config, share: float) -> Config:
    """Return the recipe with this share of each task's dev rows, if it has any, held out as an evaluation set of its own.

    Raises:
        MtlError: a task has no file of dev rows to divide, or several sets.
    """
    values: dict[str, Any] = deepcopy(base.plain())
    errors = []
    for name, section in base.tasks.items():
        # An auxiliary task is not evaluated, so none of its dev rows takes part in the choice.
        if section.auxiliary or not _has_dev_rows(base, name, section):
            continue
        if section.dev_share is not None:
            errors.append(f"tasks.{name}.dev: found {section.dev}, and --holdout divides the rows of a file; name one")
        if section.sets_of("dev"):
            errors.append(
                f"tasks.{name}.dev: --holdout divides one file, and this task has several sets; leave out --holdout and choose by "
                f"tasks.{name}.select_dev"
            )
        file = {"file": section.file_of("dev")}
        # Adjacent parts of the same file, so that no row is in both.
        values["tasks"][name]["dev"] = {
            CHOOSE: {**file, "part": [0, 1 - share]}, CONFIRM: {**file, "part": [1 - share, 1]}
        }  # fmt: skip
        values["tasks"][name]["select_dev"] = [CHOOSE]
    if errors:
        raise MtlError(*errors)
    return resolve([Layer(values)])


def _has_dev_rows(base: Config, name: str, section: TaskConfig) -> bool:
    # A task that names its files has no others; the files of a known task can be in the folder of data.
    if section.dev is not None or section.names_files:
        return section.dev is not None
    return find_source(section, section.make(name), "dev", data=base.data, sample=base.sample) is not None
