"""A study: one recipe over several methods and seeds, run after run, each an ordinary run folder beside `study.json`."""

import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mtlcli.config.changes import differences, shown_value
from mtlcli.errors import MtlError
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import stored_layer
from mtlcli.runs.seeds import Group, write_group
from mtlcli.studies.plan import Job, StudyPlan, with_best_weights
from mtlcli.studies.results import Record, read_study, write_study
from mtlcli.training.events import Event, Finished, Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up


@dataclass(frozen=True)
class RunStarted:
    """A run of the study begins, `number` of `total`."""

    job: Job
    number: int
    total: int


@dataclass(frozen=True)
class RunEnded:
    """A run of the study is done, or was done before."""

    record: Record
    number: int
    total: int
    reused: bool = False


@dataclass(frozen=True)
class Interrupted:
    """The study was stopped; the same call goes on with it."""

    done: int
    total: int


StudyEvent = RunStarted | RunEnded | Interrupted | Event


def open_study(plan: StudyPlan, folder: Path, *, overwrite: bool = False) -> None:
    """Looks at the folder before anything is slow; takes the finished runs of an earlier call into the plan.

    Raises MtlError for a folder that is no study's, and for runs that were made with another recipe.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "study.json").is_file())):
        raise MtlError(f"--output: {folder} is not the folder of a study; choose another one")
    if not (folder / "study.json").is_file():
        return
    if overwrite:
        shutil.rmtree(folder)
        return
    before = read_study(folder)
    errors = [
        f"--output: {folder} was made with another {key} ({shown_value(old)}, now {shown_value(new)})"
        for key, old, new in differences(before.base, plan.study.base)
    ]
    for job in plan.jobs if not errors else ():  # a run differs in all that the recipe differs in
        stored = stored_layer(folder / job.place)
        if stored is not None and job.config is not None:
            errors += [
                f"--output: {folder / job.place} was made with another {key} ({shown_value(old)}, now {shown_value(new)})"
                for key, old, new in differences(stored.values, job.config.plain())
            ]
    if errors:
        cure = "give what it was made with, another --output, or --overwrite to replace it"
        raise MtlError(*dict.fromkeys(errors), cure)
    plan.study.records = before.records


def run_study(
    plan: StudyPlan,
    folder: Path,
    *,
    command: str = "",
    cache: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[StudyEvent]:
    """Runs what is left of the plan, one run after the other, yielding what happens. study.json is written after each, and
    beside the runs of each method the list that makes one group of its seeds.

    A run that fails is recorded with its error, and the others go on; it is tried again in a later call.
    """
    study, total = plan.study, len(plan.jobs)
    folder.mkdir(parents=True, exist_ok=True)
    write_study(study, folder / "study.json")
    for number, job in enumerate(plan.jobs, 1):
        if stop():
            yield Interrupted(number - 1, total)
            return
        try:
            if job.kind == "static":
                job = with_best_weights(plan, job)
            done = study.record(job.place)
            if done is not None and done.weights == job.weights:
                yield RunEnded(done, number, total, reused=True)
                continue
            yield RunStarted(job, number, total)
            record = yield from _run(job, folder / job.place, command, cache, stop)
        except MtlError as error:
            record = Record(job.place, job.method, job.kind, job.seed, error="; ".join(error.lines))
        if record is None:
            yield Interrupted(number - 1, total)
            return
        study.add(record)
        write_study(study, folder / "study.json")
        if not record.error:  # a finished run needs no checkpoints, and they are large
            shutil.rmtree(folder / job.place / "checkpoints", ignore_errors=True)
            group = folder / Path(job.place).parent
            finished = {one.seed for one in study.records if not one.error and folder / Path(one.place).parent == group}
            write_group(Group(group, tuple(sorted(finished))))
        yield RunEnded(record, number, total)


def _run(
    job: Job, folder: Path, command: str, cache: Path | None, stop: Callable[[], bool]
) -> Generator[Event, None, Record | None]:
    """Trains one run, or goes on with it, and times every step. Returns what it found, None where it was interrupted."""
    if job.config is None:
        raise ValueError("a job without a configuration")
    found, _ = checkpoint.latest(folder / "checkpoints")
    stored = stored_layer(folder)
    if stored is None or differences(stored.values, job.config.plain()):
        found = None
    encoder = found.folder / "encoder" if found is not None else None
    prepared = set_up(job.config, encoder_from=encoder, cache=cache, first_step=found.step if found is not None else 0)
    counts = (task.passes * fact.batches for task, fact in zip(prepared.plan.tasks, prepared.facts, strict=True))
    batches = None if prepared.scheduler.chooses_rows else sum(counts) / prepared.plan.steps
    times: list[float] = []
    ended: Finished | None = None
    asked = time.perf_counter()
    for event in train(prepared, folder, command=command, resume_from=found, stop=stop):
        if isinstance(event, Stepped):  # an evaluation and a checkpoint come between other events
            times.append(time.perf_counter() - asked)
        elif isinstance(event, Finished):
            ended = event
        yield event
        asked = time.perf_counter()
    if ended is None or ended.why == "interrupted":
        return None
    metrics = {task: {name: one.value for name, one in splits["dev"].items()} for task, splits in ended.results.items()}
    return Record(
        job.place, job.method, job.kind, job.seed, metrics, score=ended.score, batches=batches, weights=job.weights,
        step_seconds=median(times) if times else None,
    )  # fmt: skip
