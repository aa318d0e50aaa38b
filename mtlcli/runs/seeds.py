"""Runs of one configuration with different seeds: their folder, and the file that lists them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli.errors import MtlError, one_of
from mtlcli.files import read_sealed, unreadable, write_sealed
from mtlcli.runs.lock import check_writable
from mtlcli.runs.names import LOCK, SEEDS, resume_command
from mtlcli.runs.results import has_results, is_finished, read_results
from mtlcli.statistics.spread import Spread, spread_of

FORMAT = 2


@dataclass(frozen=True)
class Group:
    """A folder with one run per seed."""

    folder: Path
    seeds: tuple[int, ...]

    def run(self, seed: int) -> Path:
        """Return the folder of the run with this seed."""
        return self.folder / f"seed-{seed}"

    @property
    def runs(self) -> tuple[Path, ...]:
        """The folders of all runs, finished or not."""
        return tuple(self.run(seed) for seed in self.seeds)

    @property
    def unfinished(self) -> tuple[Path, ...]:
        """The folders of the runs without results that can be read."""
        return tuple(run for run in self.runs if not is_finished(run))


def is_group(folder: Path) -> bool:
    """Return whether a folder holds runs with different seeds."""
    return (folder / SEEDS).is_file()


def read_group(folder: Path) -> Group | None:
    """Return the group in a folder, None where there is none. Raise MtlError for a list that is damaged."""
    if not is_group(folder):
        return None
    path = folder / SEEDS
    content = read_sealed(path, FORMAT, f"write it again: mtl train --resume --seeds N,N,... --output {folder}")
    try:
        return Group(folder, tuple(int(seed) for seed in content["seeds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(path, content.get("mtlcli"), f"{type(error).__name__}: {error}") from error


def finished_group(folder: Path) -> Group | None:
    """Return the group in a folder, None where there is none.

    Raises:
        MtlError: the list is damaged, or a run is not finished.
    """
    group = read_group(folder)
    if group is not None and group.unfinished:
        for run in group.unfinished:
            if has_results(run):  # damaged ones are named, not called missing
                read_results(run)
        raise MtlError(
            f"{folder}: {one_of(run.name for run in group.unfinished)} not finished; resume with: {resume_command(folder)}"
        )
    return group


def write_group(group: Group) -> None:
    """Write the list, and the results over all seeds once every run is finished. Raise MtlError where it cannot be written."""
    try:
        group.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MtlError(f"{group.folder}: cannot be written ({error.strerror})") from error
    content: dict[str, Any] = {"seeds": list(group.seeds)}
    if not group.unfinished:
        content["tasks"] = {
            task: {
                split: {
                    metric: {"mean": spread.mean, "deviation": spread.deviation, "values": list(spread.values)}
                    for metric, spread in metrics.items()
                }
                for split, metrics in splits.items()
            }
            for task, splits in spreads(group.runs).items()
        }
    write_sealed(group.folder / SEEDS, content, FORMAT)


def spreads(runs: Sequence[Path]) -> dict[str, dict[str, dict[str, Spread]]]:
    """Return the spread of every metric over finished runs, by task, split and name.

    Metrics that not every run has are left out. Raise MtlError for results that are missing or damaged.
    """
    results = [read_results(run).tasks for run in runs]

    def values(task: str, split: str, metric: str) -> list[float]:
        estimates = (tasks.get(task, {}).get(split, {}).get(metric) for tasks in results)
        return [estimate.value for estimate in estimates if estimate is not None]

    return {
        task: {
            split: {
                metric: spread_of(values(task, split, metric))
                for metric in metrics
                if len(values(task, split, metric)) == len(results)
            }
            for split, metrics in splits.items()
        }
        for task, splits in results[0].items()
    }


def must_be_no_group(folder: Path) -> None:
    """Raise MtlError where one run is expected and the folder holds several."""
    group = read_group(folder)
    if group is not None:
        raise MtlError(
            f"{folder}: holds {len(group.seeds)} runs with different seeds; name one of them: {one_of(map(str, group.runs))}"
        )


def open_group(folder: Path, seeds: Sequence[int], *, resume: bool, overwrite: bool) -> tuple[Group, Group | None]:
    """Look at the folder before anything is slow, and return the group to run and the one that is in the folder, if any.

    Resuming keeps the seeds in the folder and adds new ones; without `seeds` it takes those in the folder.

    Raises:
        MtlError: the folder holds a group and neither flag is given, or holds something else.
    """
    if resume and overwrite:
        raise MtlError("--resume and --overwrite exclude each other; give one")
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    check_writable(folder)
    try:
        before = read_group(folder)
    except MtlError:
        if not (seeds and (resume or overwrite)):
            raise
        before = Group(folder, tuple(seeds))  # the command says what the damaged list held
    # A lock that a killed process left does not count.
    if before is None and folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise MtlError(
            f"--output: {folder} is not empty and holds no runs with different seeds; choose another --output"
        )
    if before is not None and not (resume or overwrite):
        raise MtlError(
            f"--output: {folder} is not empty: add --resume to resume its runs, or --overwrite to replace them"
        )
    stored = before.seeds if before is not None and resume else ()
    return Group(folder, tuple(dict.fromkeys((*stored, *seeds)))), before


def parse_seeds(text: str) -> tuple[int, ...]:
    """`1,2,3` -> (1, 2, 3). Raise MtlError unless the text is a list of different whole numbers from 0."""
    parts = [part.strip() for part in text.split(",")]
    # int() would also accept signs, underscores and spaces.
    if not all(part.isdecimal() for part in parts):
        raise MtlError(f"--seeds {text}: expected whole numbers with commas between them, such as 1,2,3")
    seeds = tuple(map(int, parts))
    if len(set(seeds)) < len(seeds):
        raise MtlError(f"--seeds {text}: seed {max(seeds, key=seeds.count)} is listed twice")
    return seeds
