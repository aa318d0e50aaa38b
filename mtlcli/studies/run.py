"""A study: one recipe with several methods and seeds. Each run is an ordinary run folder next to `study.json`."""

import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mtlcli.config.changes import differences, shown_value
from mtlcli.errors import MtlError
from mtlcli.files import discard
from mtlcli.runs.folder import claim, is_free, stored_layer
from mtlcli.runs.lock import make_folder
from mtlcli.runs.names import CHECKPOINTS, CONFIG, LOCK, RECORD, SEEDS, STUDY
from mtlcli.runs.seeds import Group, write_group
from mtlcli.studies.plan import Job, StudyPlan, with_best_weights
from mtlcli.studies.results import Record, read_study, write_study
from mtlcli.training.events import Event, Finished, Started, Stepped
from mtlcli.training.run import open_or_restart, run_training


@dataclass(frozen=True)
class RunStarted:
    """Report that a run of the study starts, `number` of `total`."""

    job: Job
    number: int
    total: int


@dataclass(frozen=True)
class RunEnded:
    """Report that a run of the study has finished; `reused` if an earlier call finished it."""

    record: Record
    number: int
    total: int
    reused: bool = False


@dataclass(frozen=True)
class Interrupted:
    """Report that the study was stopped; the same call resumes it."""

    done: int
    total: int


StudyEvent = RunStarted | RunEnded | Interrupted | Event


def check_study_folder(folder: Path) -> None:
    """Raise MtlError if the folder contains anything but a study. Called before any slow work."""
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    if not is_free(folder) and not (folder / STUDY).is_file():
        raise MtlError(f"--output: {folder} is not the folder of a study; choose another folder")


def open_study(plan: StudyPlan, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Add the finished runs of an earlier call to the plan, or remove them with `overwrite`.

    Returns:
        With `overwrite`, the names of the files left in the folder, because no study wrote them.

    Raises:
        MtlError: the folder contains something else, or runs of another recipe.
    """
    check_study_folder(folder)
    if not (folder / STUDY).is_file():
        return []
    if overwrite:
        return _remove_study(folder)
    before = read_study(folder)
    errors = [
        f"--output: {folder} was made with another {key} ({shown_value(old)}, now {shown_value(new)})"
        for key, old, new in differences(before.base, plan.study.base)
    ]
    # A run differs in everything that the recipe differs in, so runs are compared only if the recipe is the same.
    for job in plan.jobs if not errors else ():
        stored = stored_layer(folder / job.place)
        if stored is not None and job.config is not None:
            errors += [
                f"--output: {folder / job.place} was made with another {key} ({shown_value(old)}, now {shown_value(new)})"
                for key, old, new in differences(stored.values, job.config.plain())
            ]
    if errors:
        cure = "give the old value, another --output, or --overwrite to replace it"
        raise MtlError(*dict.fromkeys(errors), cure)
    plan.study.records = before.records
    return []


def _remove_study(folder: Path) -> list[str]:
    """Remove the runs of a study, their lists of seeds and study.json, and return the names of everything else."""
    # Only folders named by a study: a run that a user placed in the folder is kept.
    for run in sorted({path.parent for name in (CONFIG, RECORD) for path in folder.glob(f"*/**/{name}")}):
        if run.name.startswith("seed-"):
            with claim(run, overwrite=True) as claimed:
                claimed.clear()
    for path in folder.glob(f"*/**/{SEEDS}"):
        discard(path)
    # In reverse order, so that a folder follows its subfolders and can be empty by then.
    for path in sorted(folder.glob("*/**/"), reverse=True):
        if path != folder and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    discard(folder / STUDY)
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def run_study(
    plan: StudyPlan,
    folder: Path,
    *,
    command: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[StudyEvent]:
    """Run the rest of the plan and yield its events.

    After each run, study.json is written, and next to the runs of each method the list that makes them a group of seeds. A run
    that fails is recorded with its error and does not end the study; a later call retries it.
    """
    study, total = plan.study, len(plan.jobs)
    make_folder(folder)
    # Before the first run: a later call rejects a folder that has runs but no study.json.
    write_study(study, folder)
    for number, job in enumerate(plan.jobs, 1):
        if stop():
            yield Interrupted(number - 1, total)
            return
        try:
            if job.kind == "static":
                job = with_best_weights(plan, job)
            done = study.record(job.place)
            # More trials can select other static weights; the baseline is then trained again.
            if done is not None and done.weights == job.weights:
                yield RunEnded(done, number, total, reused=True)
                continue
            yield RunStarted(job, number, total)
            record = yield from _run(job, folder / job.place, command, stop)
        except MtlError as error:
            record = Record(job.place, job.method, job.kind, job.seed, error="; ".join(error.lines))
        if record is None:
            yield Interrupted(number - 1, total)
            return
        study.add(record)
        write_study(study, folder)
        if not record.error:
            # A finished run of a study is not resumed, and its checkpoints are large.
            shutil.rmtree(folder / job.place / CHECKPOINTS, ignore_errors=True)
            group = folder / Path(job.place).parent
            # By all records, because an earlier call may have finished other seeds of the method.
            finished = {
                other.seed for other in study.records if not other.error and folder / Path(other.place).parent == group
            }
            write_group(Group(group, tuple(sorted(finished))))
        yield RunEnded(record, number, total)


def _run(job: Job, folder: Path, command: str, stop: Callable[[], bool]) -> Generator[Event, None, Record | None]:
    """Train or resume one run and time every step. Return its record; None if it was interrupted."""
    if job.config is None:
        raise ValueError("a job without a configuration")
    times: list[float] = []
    batches: float | None = None
    end: Finished | None = None
    requested = time.perf_counter()
    for event in run_training(open_or_restart(job.config, folder), command=command, stop=stop):
        if isinstance(event, Stepped):
            # Evaluations and checkpoints come between other events, so they are not in a step's time.
            times.append(time.perf_counter() - requested)
        elif isinstance(event, Started):
            batches = event.plan.batches_per_step
        elif isinstance(event, Finished):
            end = event
        yield event
        # The timer starts again after the caller has handled the event, whose time is not the run's.
        requested = time.perf_counter()
    if end is None or end.why == "interrupted":
        return None
    metrics = {
        task: {name: estimate.value for name, estimate in splits["dev"].items()} for task, splits in end.results.items()
    }
    sets = {
        task: {
            split.partition(".")[2]: {name: estimate.value for name, estimate in of_set.items()}
            for split, of_set in splits.items()
            if "." in split
        }
        for task, splits in end.results.items()
        if len(splits) > 1
    }
    return Record(
        job.place, job.method, job.kind, job.seed, metrics, score=end.score, batches=batches, weights=job.weights,
        step_seconds=median(times) if times else None, sets=sets,
    )  # fmt: skip
