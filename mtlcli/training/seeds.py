"""Train one configuration with several seeds, one run for each, in a folder that groups them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mtlcli.errors import MtlError, one_of
from mtlcli.files import remove_abandoned
from mtlcli.runs.folder import claim, free_name, lock_new, stored_layer, takeover
from mtlcli.runs.lock import lock_folder
from mtlcli.runs.results import is_finished
from mtlcli.runs.seeds import Group, open_group, parse_seeds, write_group
from mtlcli.training.events import Event, Notice, Ready
from mtlcli.training.plan import Plan
from mtlcli.training.run import Configure, OpenedRun, default_folder, open_training, run_training, with_seed


@dataclass(frozen=True)
class SeedStarted:
    """Report that the run with a seed is ready for its first step: run `number` of `total`."""

    seed: int
    number: int
    total: int
    folder: Path
    plan: Plan


@dataclass(frozen=True)
class SeedSkipped:
    """Report that the run with a seed was already finished, with the same configuration."""

    seed: int
    folder: Path


@dataclass(frozen=True)
class SeedsStopped:
    """Report that the group was stopped while the run with `seed` trained; `finished` if that was the run's last step."""

    seed: int
    finished: bool


@dataclass(frozen=True)
class SeedsFinished:
    """Report that every run of the group is finished."""

    group: Group


SeedEvent = SeedStarted | SeedSkipped | SeedsStopped | SeedsFinished | Event


@dataclass(frozen=True)
class OpenedGroup:
    """Hold a group of runs whose folders were inspected.

    Attributes:
        group: the folder and its seeds.
        runs: one run for each seed, in order.
        replaced: the group that --overwrite removes.
        resume: whether the folder may already contain the group.
        by_name: whether the folder's name was generated, so that a number may be appended to find a free one.
    """

    group: Group
    runs: tuple[OpenedRun, ...]
    replaced: Group | None
    resume: bool = False
    by_name: bool = False


def open_seeds(
    seeds: str | None, output: Path | None, configure: Configure, *, resume: bool = False, overwrite: bool = False
) -> OpenedGroup:
    """Inspect the folders of all runs and resolve their configurations.

    A resumed group keeps its seeds and adds new ones. A new run inherits the settings that the caller does not give from the
    first stored run.

    Args:
        seeds: text such as `1,2,3`; None for the seeds of a resumed group.
        output: folder of the group; None for a generated name.
        configure: resolves the configuration.
        resume: continue an existing group.
        overwrite: replace an existing group.

    Raises:
        MtlError: the seeds are malformed, a folder cannot be used this way, or a configuration is invalid or has changed.
    """
    requested = parse_seeds(seeds) if seeds is not None else ()
    by_name = output is None
    if output is None:
        if resume:
            raise MtlError("--resume: requires --output, the folder of the runs")
        output = free_name(default_folder(configure(None, None)))
    group, before = open_group(output, requested, resume=resume, overwrite=overwrite)
    # Only the first one is read: finding the newest checkpoint of a run reads all of it for its checksum.
    stored = next((layer for run in group.runs if (layer := stored_layer(run)) is not None), None) if resume else None
    runs = tuple(
        open_training(
            with_seed(configure, seed), group.run(seed), resume=resume, overwrite=overwrite, base=stored
        )
        for seed in group.seeds
    )  # fmt: skip
    return OpenedGroup(group, runs, before if overwrite else None, resume, by_name)


def train_seeds(
    opened: OpenedGroup, *, command: str = "", stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[SeedEvent]:  # fmt: skip
    """Train the unfinished runs one after the other and yield their events."""
    group = opened.group
    with lock_new(group.folder) if opened.by_name else lock_folder(group.folder) as lock:
        remove_abandoned(lock.folder)
        for line in takeover(lock):
            yield Notice(line, is_warning=True)
        # Another process may have made a group here since the folder was inspected.
        open_group(lock.folder, group.seeds, resume=opened.resume, overwrite=opened.replaced is not None)
        yield from _train_group(replace(opened, group=Group(lock.folder, group.seeds)), command, stop, tell)


def _train_group(
    opened: OpenedGroup, command: str, stop: Callable[[], bool], tell: Callable[[str], None]
) -> Iterator[SeedEvent]:
    group, has_started = opened.group, False
    for number, (seed, run) in enumerate(zip(group.seeds, opened.runs, strict=True), start=1):
        folder = group.run(seed)
        if run.is_complete:
            yield SeedSkipped(seed, folder)
            continue
        for event in run_training(replace(run, folder=folder), command=command, stop=stop, tell=tell):
            yield event
            if isinstance(event, Ready):
                # Nothing is written or removed before the first run can begin.
                if not has_started:
                    for other in opened.replaced.runs if opened.replaced is not None else ():
                        # The run that starts replaces its own folder.
                        if other != folder:
                            yield from _remove(other)
                    write_group(group)
                    has_started = True
                yield SeedStarted(seed, number, len(group.seeds), folder, event.plan)
        if stop():
            yield SeedsStopped(seed, is_finished(folder))
            return
    # If every run was complete before, the group has not been written above.
    write_group(group)
    yield SeedsFinished(group)


def _remove(folder: Path) -> Iterator[Notice]:
    """Remove a replaced run, and its folder if it contains no other files."""
    if not folder.is_dir():
        return
    try:
        with claim(folder, overwrite=True) as claimed:
            remaining = claimed.clear()
    except MtlError as error:
        for line in error.lines:
            yield Notice(line, is_warning=True)
        return
    if remaining:
        yield Notice(f"{folder}: kept, because no run wrote it: {one_of(remaining)}")
        return
    with suppress(OSError):  # the folder may be a mount point
        folder.rmdir()
