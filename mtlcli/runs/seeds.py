"""Runs of one configuration with different seeds: a folder that holds them, and a small file that lists them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli.errors import MtlError, one_of
from mtlcli.runs.folder import is_finished
from mtlcli.statistics.spread import Spread, spread_of

LIST = "seeds.json"
FORMAT = 1


@dataclass(frozen=True)
class Group:
    """A folder with one run for each seed."""

    folder: Path
    seeds: tuple[int, ...]

    def run(self, seed: int) -> Path:
        """The folder of the run with this seed."""
        return self.folder / f"seed-{seed}"

    @property
    def runs(self) -> tuple[Path, ...]:
        """The folders of all runs, finished or not."""
        return tuple(self.run(seed) for seed in self.seeds)

    @property
    def unfinished(self) -> tuple[Path, ...]:
        """The folders of the runs that have no results."""
        return tuple(run for run in self.runs if not is_finished(run))


def is_group(folder: Path) -> bool:
    """Return whether a folder holds runs with different seeds."""
    return (folder / LIST).is_file()


def read_group(folder: Path) -> Group | None:
    """The group in a folder, None where there is none. Raises MtlError for a list that is damaged."""
    path = folder / LIST
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise MtlError(f"{path}: format {found['format']} was written by another mtlcli")
        return Group(folder, tuple(int(seed) for seed in found["seeds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise MtlError(f'{path}: damaged; it holds {{"format": {FORMAT}, "seeds": [1, 2, 3]}}') from error


def finished_group(folder: Path) -> Group | None:
    """The same, and MtlError for a group with runs that are not finished."""
    group = read_group(folder)
    if group is not None and group.unfinished:
        raise MtlError(
            f"{folder}: {one_of(run.name for run in group.unfinished)} not finished; "
            f"go on with: mtl train --resume --output {folder}"
        )
    return group


def write_group(group: Group) -> None:
    """Writes the list, and the results over all seeds once every run is finished."""
    group.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"format": FORMAT, "seeds": list(group.seeds)}
    if not group.unfinished:
        found["tasks"] = {
            task: {
                split: {
                    metric: {"mean": one.mean, "deviation": one.deviation, "values": list(one.values)}
                    for metric, one in metrics.items()
                }
                for split, metrics in splits.items()
            }
            for task, splits in spreads(group.runs).items()
        }
    scratch = group.folder / f".{LIST}"
    scratch.write_text(json.dumps(found, indent=1) + "\n")
    scratch.replace(group.folder / LIST)


def spreads(runs: Sequence[Path]) -> dict[str, dict[str, dict[str, Spread]]]:
    """Every metric of every task and split over finished runs."""
    results = [json.loads((run / "results.json").read_text())["tasks"] for run in runs]
    return {
        task: {
            split: {
                metric: spread_of([one[task][split][metric]["value"] for one in results])
                for metric in metrics
            }
            for split, metrics in splits.items()
        }
        for task, splits in results[0].items()
    }  # fmt: skip


def must_be_no_group(folder: Path) -> None:
    """Raises MtlError where one run is expected and the folder holds several."""
    group = read_group(folder)
    if group is not None:
        raise MtlError(
            f"{folder}: holds {len(group.seeds)} runs with different seeds; name one of them: {one_of(map(str, group.runs))}"
        )


def open_group(folder: Path, seeds: Sequence[int], *, resume: bool, overwrite: bool) -> tuple[Group, Group | None]:
    """Looks at the folder before anything is slow: the group to run, and the one that stands there, if any. Resuming keeps
    the seeds that are there and adds new ones; without `seeds`, those that are there.

    Raises MtlError for a folder that holds something and neither flag is given, and for one that holds something else.
    """
    if resume and overwrite:
        raise MtlError("--resume and --overwrite exclude each other; give one")
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    found = read_group(folder)
    if found is None and folder.is_dir() and any(folder.iterdir()):
        raise MtlError(
            f"--output: {folder} is not empty and holds no runs with different seeds; choose another --output"
        )
    if found is not None and not (resume or overwrite):
        raise MtlError(
            f"--output: {folder} is not empty: add --resume to go on with its runs, or --overwrite to replace them"
        )
    before = found.seeds if found is not None and resume else ()
    return Group(folder, tuple(dict.fromkeys((*before, *seeds)))), found


def parse_seeds(text: str) -> tuple[int, ...]:
    """`1,2,3` -> (1, 2, 3). Raises MtlError for what is no list of different whole numbers from 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise MtlError(f"--seeds {text}: expected whole numbers with commas between them, such as 1,2,3")
    seeds = tuple(map(int, parts))
    if len(set(seeds)) < len(seeds):
        raise MtlError(f"--seeds {text}: a seed is named twice; every seed makes one run")
    return seeds
