"""Run the trials of a sweep: train an ordinary run for each, report its evaluations, and stop it where it falls behind."""

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtlcli.config.layers import dump
from mtlcli.errors import MtlError
from mtlcli.files import locked, write_whole
from mtlcli.runs.metrics_log import read_log
from mtlcli.runs.names import CHECKPOINTS
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.sweeps.plan import SweepPlan
from mtlcli.sweeps.results import (
    BEST,
    DONE,
    FAILED,
    PRUNED,
    RUNNING,
    SWEEP,
    Sweep,
    Trial,
    read_sweep,
    write_description,
    write_trials,
)
from mtlcli.sweeps.space import in_words
from mtlcli.sweeps.storage import masked
from mtlcli.sweeps.study import Asked, TrialStudy, digest
from mtlcli.training.events import Evaluated, Event, Finished, Started
from mtlcli.training.run import open_or_restart, run_training


@dataclass(frozen=True)
class TrialStarted:
    """Report that a trial starts; `resumed` if another worker, or an earlier call, had begun it."""

    place: str
    values: Mapping[str, Any]
    resumed: bool


@dataclass(frozen=True)
class TrialEnded:
    """Report the end of a trial, and how many of the sweep have ended."""

    trial: Trial
    ended: int
    total: int


@dataclass(frozen=True)
class SweepInterrupted:
    """Report that this worker was asked to stop; the trial that it left goes on when a worker starts."""

    ended: int
    total: int


SweepEvent = TrialStarted | TrialEnded | SweepInterrupted | Event


class SweepWorker:
    """One worker of a sweep; several may share a folder and a storage.

    Raises:
        MtlError: the folder holds another sweep, or the storage cannot be used.
    """

    def __init__(self, plan: SweepPlan, folder: Path, *, resume: bool = False) -> None:
        self.plan, self.folder = plan, folder
        described = (folder / SWEEP).is_file()
        if described:
            self._must_be_same()
        elif resume:
            raise MtlError(f"--resume: {folder} holds no sweep; start it without --resume")
        folder.mkdir(parents=True, exist_ok=True)
        self.study = TrialStudy(plan, folder)
        # Only after the storage could be opened, because sweep.json makes the folder that of a sweep.
        if not described:
            write_description(folder, self._description())

    def _description(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "base": plan.base.plain(), "space": plan.space.canonical(), "keys": [dimension.key for dimension in plan.space.dimensions],
            "objectives": list(plan.objectives), "directions": list(plan.directions),
            "storage": masked(plan.storage) if plan.storage else None,
        }  # fmt: skip

    def _must_be_same(self) -> None:
        before, now = read_sweep(self.folder), self._description()
        again = "give another --output, or the old file"
        if before.space != now["space"]:
            old, new = ({entry["key"]: entry for entry in json.loads(text)} for text in (before.space, now["space"]))
            keys = [key for key in {**old, **new} if old.get(key) != new.get(key)] or list(new)
            raise MtlError(
                f"{self.plan.space.name} differs from the space of {self.folder} in {', '.join(keys)}; {again}"
            )
        if list(before.objectives) != now["objectives"]:
            raise MtlError(f"--objective: {self.folder} has {', '.join(before.objectives)}; {again}")
        if digest(before.base) != digest(now["base"]):
            raise MtlError(f"the recipe differs from that of {self.folder}; {again}")

    def run(self, *, command: str = "", stop: Callable[[], bool] = lambda: False) -> Iterator[SweepEvent]:
        """Run trials until the sweep has as many as planned, and yield what happens."""
        while not stop():
            asked = self.study.ask()
            if asked is None:
                break
            try:
                # A generator: training begins after the event has been handled.
                trains = self._train(asked, command, stop)
                yield TrialStarted(asked.place, asked.values, asked.is_resumed)
                outcome = yield from trains
            finally:
                asked.lease.release()
            if outcome is None:
                yield SweepInterrupted(*self.progress())
                return
            self.write()
            ended = next(found for found in self.trials() if found.number == asked.trial.number)
            yield TrialEnded(ended, *self.progress())
        else:
            # The loop ended because of `stop`, not by `break`.
            yield SweepInterrupted(*self.progress())
        self.write()

    def progress(self) -> tuple[int, int]:
        """Return how many trials have ended, and how many are planned."""
        ended = {trial.place for trial in self.trials() if trial.state in (DONE, PRUNED, FAILED) and trial.place}
        return len(ended), self.plan.trials

    def _train(self, asked: Asked, command: str, stop: Callable[[], bool]) -> Generator[Event, None, str | None]:
        """Train or resume the run of a trial, and tell the storage how it ended; None where this worker was asked to stop."""
        start, count, behind = time.monotonic(), 0, list[bool]()
        config, folder = asked.config, self.folder / asked.place
        # A trial that is taken over is new to Optuna, so its earlier scores are reported again.
        for line in read_log(folder):
            if line.kind == "evaluation" and line.values.get("score") is not None:
                count += 1
                if len(self.plan.objectives) == 1:
                    self.study.report(asked, line.values["score"], count)
        end: Finished | None = None
        warmup = 0
        try:
            for event in run_training(
                open_or_restart(config, folder), command=command, stop=lambda: stop() or any(behind)
            ):
                if isinstance(event, Started):
                    warmup = int(config.optimizer.warmup * event.plan.steps)
                elif isinstance(event, Evaluated) and event.score is not None and len(self.plan.objectives) == 1:
                    count += 1
                    self.study.report(asked, event.score, count)
                    # Not before the end of the warm-up, when scores say little.
                    if self.plan.prunes and event.step > warmup and self.study.should_prune(asked):
                        behind.append(True)
                elif isinstance(event, Finished):
                    end = event
                yield event
        except MtlError as error:
            self.study.tell(asked, "FAIL", error="; ".join(error.lines))
            return FAILED
        if end is not None and end.why == "interrupted" and not behind:
            return None
        seconds = time.monotonic() - start
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        if end is None or end.why == "interrupted":
            self.study.tell(asked, "PRUNED", seconds=seconds)
            return PRUNED
        metrics = _metrics(end.results)
        values = [end.score] if len(self.plan.objectives) == 1 else [metrics.get(name) for name in self.plan.objectives]
        self.study.tell(asked, "COMPLETE", values=values, seconds=seconds, metrics=metrics)
        return DONE

    def trials(self) -> list[Trial]:
        """Return the trials of the storage, those of other workers too."""
        return self.study.trials()

    def sweep(self) -> Sweep:
        """Return the sweep with the trials of the storage, which may be newer than those in its folder."""
        return replace(read_sweep(self.folder), trials=tuple(self.trials()))

    def is_last(self) -> bool:
        """Return whether no other worker is in a trial."""
        return not any(trial.state == RUNNING for trial in self.trials())

    def write(self) -> Sweep:
        """Write trials.json and best.yaml, and return the sweep."""
        # The storage is read under the lock too, so that no worker replaces newer trials by older ones.
        with locked(self.folder / ".write.lock"):
            write_trials(self.folder, self.trials(), self.study.importance())
            sweep = read_sweep(self.folder)
            if sweep.done:
                best = sweep.done[0]
                # The user's recipe, with whole dev sets, where --holdout divides those of `base`.
                config = self.plan.space.config(self.plan.recipe, best.values, "best")
                where = f"# The best of {len(sweep.done)} trials by {sweep.objectives[0]} on dev, {best.scores[0]:.4f}: {best.place}"
                caution = "# These rows have chosen it, so its score on them is too high: see docs/sweeps.md\n"
                write_whole(self.folder / BEST, f"{where} ({in_words(best.values)})\n{caution}{dump(config.plain())}")
        return sweep


def _metrics(results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, float]:
    return {
        f"{task}.{name}": estimate.value
        for task, splits in results.items()
        for name, estimate in splits.get("dev", {}).items()
    }
