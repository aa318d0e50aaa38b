"""Where the rows of a task's split come from: its own file, the folder of --data, the made-up corpus, or the Hub."""

from pathlib import Path

from mtlcli.config.evaluation_sets import kind_of
from mtlcli.config.schema import TaskConfig
from mtlcli.data.readers import FileSource, format_of
from mtlcli.data.sources import Source, filtered, hub_source, sample_source
from mtlcli.errors import MtlError
from mtlcli.tasks.base import Task


def find_source(config: TaskConfig, task: Task, split: str, *, data: str | None, sample: bool) -> Source | None:
    """Return the source of a split, with its filter; None without one.

    It is the task's own file, the folder of --data, the made-up corpus, or the Hub.
    """
    source = _find_source(config, task, split, data=data, sample=sample)
    return None if source is None else with_filter(source, config, task, split)


def with_filter(source: Source, config: TaskConfig, task: Task, split: str) -> Source:
    """Return the source with the filter of a split. Raise MtlError if it lacks a column of the filter."""
    name = split.partition(".")[2]
    of_set = bool(name) and config.sets_of(kind_of(split))[name].where is not None
    return filtered(source, config.where_of(split), f"tasks.{task.name}.{f'{split}.' if of_set else ''}where")


def _find_source(config: TaskConfig, task: Task, split: str, *, data: str | None, sample: bool) -> Source | None:
    kind, _, name = split.partition(".")
    if split == "dev" and config.dev_share is not None:
        # Both splits read this file, and `splits.rows_held_out` divides its rows.
        return _find_source(config, task, "train", data=data, sample=sample)
    named = config.file_of(split)
    if named is not None:
        return FileSource(Path(named), format=format_of(named, name=config.format, header=config.header))
    if name:  # a part of the rows that the task has where no sets are named
        source = _find_source(config.model_copy(update={kind: None}), task, kind, data=data, sample=sample)
        if source is None:
            raise MtlError(f"tasks.{task.name}.{split}: the task has no {kind} rows of its own; name the set's file")
        return source
    # Next to files of the user, rows of --data, the sample or the Hub would be those of another data set.
    if config.train is not None or (split != "train" and config.names_files):
        return None
    if data is not None:
        folder = Path(data)
        if not folder.is_dir():
            raise MtlError(f"data: {folder.absolute()} is not a folder")
        file = task.files.get(split)
        if file is None and split == "train":
            raise MtlError(
                f"tasks.{task.name}: the task expects no file of its own in {folder}: give one, such as "
                f"--task {task.name}=train.tsv,dev.tsv"
            )
        if file is None or (split != "train" and not (folder / file).exists()):
            return None
        return FileSource(folder / file, format=format_of(file, name=config.format, header=config.header))
    if sample:
        return sample_source(task, split)
    if task.hub is not None:
        return hub_source(task, task.hub, split)
    if split == "train":
        raise MtlError(
            f"tasks.{task.name}: no data: give its files (--task {task.name}=train.tsv,dev.tsv) or the folder where they "
            "are (--data FOLDER)"
        )
    return None


def is_empty(source: Source) -> bool:
    """Return whether a file has neither a header nor a row.

    Raises:
        MtlError: it is a file of JSON in which no row can be read.
    """
    if not isinstance(source, FileSource):
        return False
    if source.path.is_file() and source.path.stat().st_size == 0:
        return True
    if not source.columns:
        list(source)  # a file of JSON whose rows are all bad has no columns either, and says so here
    return not source.columns
