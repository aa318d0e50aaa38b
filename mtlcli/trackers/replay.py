"""Send a run to trackers after it has ended, from the files in its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtlcli.config.schema import Config, TrackerChoice
from mtlcli.errors import MtlError, suggest
from mtlcli.runs.ensemble import read as read_ensemble
from mtlcli.runs.folder import stored_layer
from mtlcli.runs.lock import lock_folder
from mtlcli.runs.metrics_log import read_log
from mtlcli.runs.names import CONFIG, ENSEMBLE, METRICS, SEEDS, STUDY, not_a_run
from mtlcli.runs.plan import read_plan
from mtlcli.runs.results import is_finished, read_results
from mtlcli.trackers.session import RunTrackers, make_trackers


@dataclass(frozen=True)
class Replayed:
    """Report a run that was sent: the numbers of its steps and evaluations, and the problem of each tracker that failed."""

    folder: Path
    steps: int
    evaluations: int
    problems: Mapping[str, str]


def runs_in(folder: Path) -> tuple[tuple[Path, ...], str]:
    """Return the runs of a run folder, a folder of seeds, a study or an ensemble, and the group's name for the runs of an ensemble.

    Raises:
        MtlError: the folder holds no run that was trained.
    """
    if (folder / METRICS).is_file():
        return (folder,), ""
    if (folder / ENSEMBLE).is_file():
        members, _ = read_ensemble(folder)
        return tuple(member.folder for member in members), folder.resolve().name
    if any((folder / name).is_file() for name in (SEEDS, STUDY)):
        # One level below a folder of seeds, two or more below a study.
        if runs := tuple(sorted(path.parent for path in folder.glob(f"*/**/{METRICS}"))):
            return runs, ""
        raise MtlError(f"{folder}: none of its runs has taken a step")
    raise MtlError(not_a_run(folder, METRICS))


def replay(folder: Path, names: Sequence[str], options: Mapping[str, Mapping[str, Any]], group: str = "") -> Replayed:
    """Send a run to trackers as if it were trained now: a new run of each tracker, with every step once.

    Args:
        folder: the run folder; the run need not be finished.
        names: names of trackers; none for those of the run's configuration.
        options: options by the tracker's name, which win over those of the run's configuration.
        group: name of the group of a run that is in no folder of a group.

    Raises:
        MtlError: the run cannot be read or is being trained, or a tracker or an option is unknown.
    """
    # The lock keeps the run from being trained while its log is read.
    with lock_folder(folder, "RUN"):
        config = _config(folder)
        trackers = make_trackers(_choices(folder, config, names, options))
        lines, plan = read_log(folder), read_plan(folder)
        session = RunTrackers(folder, config, plan, trackers, group=group)
        for line in lines:
            session.line(line.values, patiently=True)
        if is_finished(folder):
            results = read_results(folder)
            session.end(results.why or "finished", results.steps or 0, results.tasks)
        else:
            session.end("interrupted")
        session.wait(patiently=True)
        problems = dict(session.problems(at_end=True))
    kinds = [line.kind for line in lines]
    return Replayed(folder, kinds.count("step"), kinds.count("evaluation"), problems)


def _config(folder: Path) -> Config:
    """Return the configuration of a run as it is stored, without importing its plugins, which may not be installed."""
    layer = stored_layer(folder)
    if layer is None:
        raise MtlError(f"{folder / CONFIG}: is missing; nothing else in the folder holds the configuration of the run")
    try:
        return Config.model_validate(layer.values)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"]))
        raise MtlError(
            f"{folder / CONFIG}: {place}: {detail['msg']}; use the version of mtlcli that wrote it"
        ) from error


def _choices(
    folder: Path, config: Config, names: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> list[TrackerChoice]:
    stored = {choice.name: choice.options for choice in config.trackers}
    names = list(names) or list(stored)
    if not names:
        raise MtlError(f"{folder}: its configuration has no tracker; name one with --tracker NAME")
    if unknown := [name for name in options if name not in names]:
        raise MtlError(f"--set {unknown[0]}: no tracker of this name{suggest(unknown[0], names)}")
    choices, errors = [], []
    for name in names:
        choice = TrackerChoice.model_validate({**stored.get(name, {}), **options.get(name, {}), "name": name})
        choice._path = f"--tracker {name}"
        errors += [f"--set {name}.{option}: {problem}" for option, problem in choice.check(f"--tracker {name}")]
        choices.append(choice)
    if errors:
        raise MtlError(*errors)
    return choices
