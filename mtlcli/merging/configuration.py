"""The configuration of a merged run: the encoder of its runs, and the tasks of all of them."""

from pathlib import Path

from mtlcli.config.schema import TASK_FILES, Config, TaskConfig, default_sections
from mtlcli.errors import MtlError
from mtlcli.merging.sources import Source, Sources
from mtlcli.tasks.base import Task

METHOD_KEYS = ("scheduler", "balancer", "gradient_regularizer", "regularizers", "trackers")
"""Keys that say how tasks were trained together and what showed it, which no longer applies."""


def merged_config(sources: Sources, select_by: str) -> Config:
    """Return the configuration of a merged run: that of the first run, with the tasks of all runs.

    Raises:
        MtlError: the runs read the rows of their tasks from different places, and a task does not name its files.
    """
    first = sources.runs[0].config
    values = first.plain()
    for key in METHOD_KEYS:
        values[key] = default_sections().get(key, [] if key in ("regularizers", "trackers") else None)
    owners = [sources.owner(name) for name in sources.owners]
    values["init"] = None
    values["training"]["select_by"] = select_by
    # Tasks can be found by name in one folder of data; with several folders, each task has to name its files.
    places = {(run.config.data, run.config.sample) for run in owners}
    if len(places) == 1:
        values["data"], values["sample"] = next(iter(places))
        sections = {name: sources.owner(name).config.tasks[name] for name in sources.owners}
    else:
        values["data"], values["sample"] = None, False
        sections = {name: _with_files(sources.owner(name), name) for name in sources.owners}
    values["tasks"] = {name: section.model_dump(mode="json", by_alias=True) for name, section in sections.items()}
    return Config.model_validate(values)


def _with_files(run: Source, name: str) -> TaskConfig:
    """Return the section of a task with the files that its run read from its folder of data.

    Raises:
        MtlError: its rows are no files that a recipe can name.
    """
    section = run.config.tasks[name]
    if section.names_files:
        return section
    if run.config.data is None or any(section.sets_of(kind) for kind in TASK_FILES):
        raise MtlError(
            f"{run.folder}: the rows of {name} come from another place than those of the other runs; name their files in its recipe "
            f"(tasks.{name}.train, dev)"
        )
    task: Task = section.make(name)
    paths = {split: Path(run.config.data) / file for split, file in task.files.items()}
    return section.model_copy(
        update={
            split: str(path)
            for split, path in paths.items()
            if split in ("train", *TASK_FILES) and getattr(section, split) is None and path.exists()
        }
    )
