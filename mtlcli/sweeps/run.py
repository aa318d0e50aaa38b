"""Run the trials of a sweep: ask for values, train an ordinary run, report its evaluations, stop it where it falls behind."""

import hashlib
import json
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mtlcli.config.layers import dump
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.facts import seed_for
from mtlcli.files import locked, write_whole
from mtlcli.runs.metrics_log import read_log
from mtlcli.runs.names import CHECKPOINTS
from mtlcli.statistics.bootstrap import Estimate
from mtlcli.sweeps import leases
from mtlcli.sweeps.results import (
    BEST,
    DONE,
    FAILED,
    PRUNED,
    RUNNING,
    SWEEP,
    WAITING,
    Sweep,
    Trial,
    read_sweep,
    write_description,
    write_trials,
)
from mtlcli.sweeps.space import Space, impossible, in_words
from mtlcli.sweeps.storage import import_optuna, masked, open_storage, repeated
from mtlcli.trackers.session import make_trackers
from mtlcli.training.events import Evaluated, Event, Finished, Started
from mtlcli.training.run import open_or_restart, run_training

ATTEMPTS = 3
"""Workers that may end in one trial before it counts as failed."""
YOUNG = 3.0
"""Seconds after which a trial without a living worker counts as lost: its worker may be about to take the lease."""
IMPOSSIBLE_IN_A_ROW = 50
SAMPLERS = ("tpe", "random")
PLACE, GOES_ON, ATTEMPT, WORKER, ERROR, METRICS, TIME = (
    "place",
    "goes_on",
    "attempts",
    "worker",
    "error",
    "metrics",
    "seconds",
)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep searches, checked before the first trial.

    Attributes:
        objectives: `select_by` alone, or several of TASK.METRIC.
        directions: `maximize` or `minimize` for each.
        notes: lines for the user.
    """

    base: Config
    space: Space
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    trials: int
    sampler: str = "tpe"
    prunes: bool = True
    storage: str | None = None
    notes: tuple[str, ...] = field(default=())


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


def plan_sweep(
    base: Config, space: Space, *, trials: int, objectives: Sequence[str] = (), directions: Sequence[str] = (), sampler: str = "tpe",
    prunes: bool = True, storage: str | None = None,
) -> SweepPlan:  # fmt: skip
    """Check the combinations of the space, without reading data.

    Raises:
        MtlError: no combination works, or a tracker's package is missing.
    """
    import_optuna()
    make_trackers(base.trackers)
    several = len(objectives) > 1
    notes = []
    excluded = impossible(space, base)
    for text, reason in list(excluded.items())[:10]:
        notes.append(f"left out, because it cannot be trained: {text}: {reason}")
    if len(excluded) > 10:
        notes.append(f"left out, because they cannot be trained: {len(excluded) - 10} more combinations")
    if space.default(base) is None:
        notes.append("the recipe itself lies outside of the space, so it is no trial")
    if several and prunes:
        notes.append(
            "several objectives: every trial is trained to its end, because what falls behind in one may lead in another"
        )
    startup = _startup(space)
    if sampler == "tpe" and trials <= startup:
        notes.append(f"with {trials} trials the values are drawn at random: the sampler learns from {startup} on")
    return SweepPlan(
        base, space, tuple(objectives) or (base.training.select_by,), tuple(directions) or ("maximize",), trials, sampler,
        prunes and not several, storage, tuple(notes),
    )  # fmt: skip


def _startup(space: Space) -> int:
    return max(10, 2 * len(space))


class SweepWorker:
    """One worker of a sweep; several may share a folder and a storage.

    Raises:
        MtlError: the folder holds another sweep, or the storage cannot be used.
    """

    def __init__(self, plan: SweepPlan, folder: Path, *, resume: bool = False) -> None:
        self.plan, self.folder = plan, folder
        self._optuna = import_optuna()
        described = (folder / SWEEP).is_file()
        if described:
            self._must_be_same()
        elif resume:
            raise MtlError(f"--resume: {folder} holds no sweep; start it without --resume")
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".ask.lock"):
            self.storage = open_storage(plan.storage, folder)
            self.study = self._open_study()
            workers = self.study.user_attrs.get("workers", 0)
            self.study.set_user_attr("workers", workers + 1)
            # Samplers of equal seeds would ask for equal values.
            self.study.sampler = self._sampler(seed_for(plan.base.training.seed, "sweep", workers) % 2**32)
            if not described:
                write_description(folder, self._description())
            if not workers and (values := plan.space.default(plan.base)) is not None:
                self.study.enqueue_trial(self._stored(values))
        self.name = f"{socket.gethostname()}-{workers + 1}"

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
        if _digest(before.base) != _digest(now["base"]):
            raise MtlError(f"the recipe differs from that of {self.folder}; {again}")

    def _open_study(self) -> Any:
        optuna, plan = self._optuna, self.plan
        pruner = (
            optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
            if plan.prunes
            else optuna.pruners.NopPruner()
        )
        name = _digest([plan.base.plain(), plan.space.canonical(), plan.objectives])[:16] if plan.storage else "sweep"

        def create() -> Any:
            return optuna.create_study(
                storage=self.storage, study_name=f"mtl-{name}", directions=list(plan.directions), pruner=pruner, load_if_exists=True,
                sampler=self._sampler(0),
            )  # fmt: skip

        try:
            return create()
        except Exception:  # two workers made the tables of a new database at the same time
            time.sleep(1)
            return create()

    def _sampler(self, seed: int) -> Any:
        if self.plan.sampler == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        # `group` lets keys with conditions be modeled together, `constant_liar` keeps workers from asking for the same values.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `group` is called experimental
            return self._optuna.samplers.TPESampler(
                multivariate=True, group=True, constant_liar=True, n_startup_trials=_startup(self.plan.space), seed=seed
            )

    def _stored(self, values: Mapping[str, Any]) -> dict[str, Any]:
        by_key = {dimension.key: dimension for dimension in self.plan.space.dimensions}
        return {
            key: by_key[key].labels[by_key[key].choices.index(value)] if by_key[key].choices else value
            for key, value in values.items()
        }

    # Trials

    def run(self, *, command: str = "", stop: Callable[[], bool] = lambda: False) -> Iterator[SweepEvent]:
        """Run trials until the sweep has as many as planned, and yield what happens."""
        while not stop():
            asked = self._ask()
            if asked is None:
                break
            trial, values, config, place, lease = asked
            try:
                trains = self._train(trial, config, self.folder / place, command, stop)
                yield TrialStarted(place, values, GOES_ON in trial.user_attrs)
                outcome = yield from trains
            finally:
                lease.release()
            if outcome is None:
                yield SweepInterrupted(*self._progress())
                return
            self.write()
            ended = next(found for found in self.trials() if found.number == trial.number)
            yield TrialEnded(ended, *self._progress())
        else:
            yield SweepInterrupted(*self._progress())
        self.write()

    def _progress(self) -> tuple[int, int]:
        ended = {trial.place for trial in self.trials() if trial.state in (DONE, PRUNED, FAILED) and trial.place}
        return len(ended), self.plan.trials

    def _ask(self) -> tuple[Any, dict[str, Any], Config, str, leases.Lease] | None:
        """Return a trial to run with its values, configuration, folder and lease; None where enough have begun."""
        for attempt in range(IMPOSSIBLE_IN_A_ROW):
            with locked(self.folder / ".ask.lock"):
                self._take_up_lost()
                records = repeated(lambda: self.study.get_trials(deepcopy=False))
                waiting = [record for record in records if record.state.name == "WAITING"]
                places = {record.user_attrs[PLACE] for record in records if PLACE in record.user_attrs}
                if not waiting and len(places) >= self.plan.trials:
                    return None
                if attempt == IMPOSSIBLE_IN_A_ROW // 2:
                    self.study.sampler = self._optuna.samplers.RandomSampler()
                trial = repeated(self.study.ask)
                values = self._suggest(trial)
                try:
                    config = self.plan.space.config(self.plan.base, values, f"trial {trial.number}")
                except MtlError as error:
                    trial.set_user_attr(ERROR, error.lines[0])
                    self._fail(trial.number)
                    continue
                place = trial.user_attrs.get(PLACE) or f"trials/{trial.number:03}"
                lease = leases.take(self.folder / place)
                if lease is None:
                    continue
                trial.set_user_attr(PLACE, place)
                trial.set_user_attr(WORKER, self.name)
                trial.set_user_attr(ATTEMPT, trial.user_attrs.get(ATTEMPT, 1))
                return trial, values, config, place, lease
        raise MtlError(
            f"{self.plan.space.name}: {IMPOSSIBLE_IN_A_ROW} proposals in a row cannot be trained; narrow the space"
        )

    def _fail(self, number: int) -> None:
        repeated(partial(self.study.tell, number, state=self._state("FAIL")))

    def _state(self, name: str) -> Any:
        return self._optuna.trial.TrialState[name]

    def _suggest(self, trial: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for dimension in self.plan.space.active(values, self.plan.base.plain()):
            if dimension.choices:
                label = trial.suggest_categorical(dimension.key, dimension.labels)
                values[dimension.key] = dimension.value(label)
            elif dimension.whole:
                step = 1 if dimension.step is None else int(dimension.step)
                values[dimension.key] = trial.suggest_int(
                    dimension.key, int(dimension.low), int(dimension.high), step=step, log=dimension.log
                )
            else:
                values[dimension.key] = trial.suggest_float(
                    dimension.key, dimension.low, dimension.high, step=dimension.step, log=dimension.log
                )
        return values

    def _take_up_lost(self) -> None:
        """Ask again for trials whose worker has ended: they go on from their last checkpoint, in the same folder."""
        for lost in repeated(lambda: self.study.get_trials(deepcopy=False, states=(self._state("RUNNING"),))):
            place = lost.user_attrs.get(PLACE)
            age = time.time() - lost.datetime_start.timestamp() if lost.datetime_start is not None else 0.0
            if place is None:
                if age > 60:  # its worker ended between asking and taking the lease
                    self._fail(lost.number)
                continue
            if age < YOUNG or not (self.folder / place).with_name(f"{Path(place).name}{leases.SUFFIX}").exists():
                continue
            lease = leases.take(self.folder / place)
            if lease is None:
                continue
            attempts = lost.user_attrs.get(ATTEMPT, 1)
            try:
                again = attempts < ATTEMPTS
                if not again:
                    self.storage.set_trial_user_attr(lost._trial_id, ERROR, f"{attempts} workers ended in this trial")
                self._fail(lost.number)
                if again:
                    attributes = {PLACE: place, GOES_ON: lost.number, ATTEMPT: attempts + 1}
                    self.study.enqueue_trial(lost.params, user_attrs=attributes)
            finally:
                lease.release()

    def _train(
        self, trial: Any, config: Config, folder: Path, command: str, stop: Callable[[], bool]
    ) -> Generator[Event, None, str | None]:
        """Train or resume the run of a trial, and tell the storage how it ended; None where this worker was asked to stop."""
        start, count, behind = time.monotonic(), 0, list[bool]()
        for line in read_log(folder):
            if line.kind == "evaluation" and line.values.get("score") is not None:
                count += 1
                if len(self.plan.objectives) == 1:
                    trial.report(line.values["score"], count)
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
                    repeated(partial(trial.report, event.score, count))
                    # Not before the end of the warm-up, when scores say little.
                    if self.plan.prunes and event.step > warmup and repeated(trial.should_prune):
                        behind.append(True)
                elif isinstance(event, Finished):
                    end = event
                yield event
        except MtlError as error:
            self._tell(trial, "FAIL", error="; ".join(error.lines))
            return FAILED
        if end is not None and end.why == "interrupted" and not behind:
            return None
        seconds = time.monotonic() - start
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        if end is None or end.why == "interrupted":
            self._tell(trial, "PRUNED", seconds=seconds)
            return PRUNED
        metrics = _metrics(end.results)
        values = [end.score] if len(self.plan.objectives) == 1 else [metrics.get(name) for name in self.plan.objectives]
        self._tell(trial, "COMPLETE", values=values, seconds=seconds, metrics=metrics)
        return DONE

    def _tell(
        self, trial: Any, state: str, *, values: Sequence[float | None] = (), seconds: float | None = None,
        metrics: Mapping[str, float] | None = None, error: str = "",
    ) -> None:  # fmt: skip
        """Store the end of a trial, unless it has been given to another worker meanwhile: this one gave no sign of life."""

        def tell() -> None:
            for name, value in ((TIME, seconds), (METRICS, metrics), (ERROR, error)):
                if value:
                    trial.set_user_attr(name, value)
            self.study.tell(trial.number, list(values) or None, state=self._state(state))

        current = repeated(lambda: self.study.get_trials(deepcopy=False))[trial.number]
        if current.state.is_finished():
            return
        try:
            repeated(tell)
        except (ValueError, RuntimeError, AssertionError):
            if not repeated(lambda: self.study.get_trials(deepcopy=False))[trial.number].state.is_finished():
                raise

    # Results

    def trials(self) -> list[Trial]:
        """Return the trials of the storage, without those that another one goes on with and proposals that cannot be trained."""
        records = repeated(lambda: self.study.get_trials(deepcopy=False))
        continued = {record.user_attrs[GOES_ON] for record in records if GOES_ON in record.user_attrs}
        by_key = {dimension.key: dimension for dimension in self.plan.space.dimensions}
        states = {"COMPLETE": DONE, "PRUNED": PRUNED, "FAIL": FAILED, "RUNNING": RUNNING, "WAITING": WAITING}
        trials = []
        for record in records:
            if record.number in continued or (record.state.name == "FAIL" and PLACE not in record.user_attrs):
                continue
            curve = tuple(sorted(record.intermediate_values.items()))
            trials.append(
                Trial(
                    record.number, record.user_attrs.get(PLACE, ""), states[record.state.name],
                    {key: by_key[key].value(value) for key, value in record.params.items()},
                    tuple(record.values or ()) if record.state.name == "COMPLETE" else (), curve, record.user_attrs.get(METRICS, {}),
                    record.user_attrs.get(TIME), record.user_attrs.get(WORKER, ""), record.user_attrs.get(ATTEMPT, 1),
                    record.user_attrs.get(ERROR, ""),
                )
            )  # fmt: skip
        return trials

    def is_last(self) -> bool:
        """Return whether no other worker is in a trial."""
        return not any(trial.state == RUNNING for trial in self.trials())

    def write(self) -> Sweep:
        """Write trials.json and best.yaml, and return the sweep."""
        with locked(self.folder / ".write.lock"):
            write_trials(self.folder, self.trials(), self._importance())
            sweep = read_sweep(self.folder)
            if sweep.done:
                best = sweep.done[0]
                config = self.plan.space.config(self.plan.base, best.values, "best")
                where = f"# The best of {len(sweep.done)} trials by {sweep.objectives[0]} on dev, {best.scores[0]:.4f}: {best.place}"
                chosen = "# These rows have chosen it, so its score on them is too high: see docs/sweeps.md\n"
                write_whole(self.folder / BEST, f"{where} ({in_words(best.values)})\n{chosen}{dump(config.plain())}")
        return sweep

    def _importance(self) -> dict[str, float]:
        """Return the share of each key in the spread of the scores; none for few trials or several objectives."""
        done = [trial for trial in self.trials() if trial.state == DONE]
        if len(done) < 20 or len(self.plan.objectives) > 1:
            return {}
        try:
            evaluator = self._optuna.importance.PedAnovaImportanceEvaluator()
            found = self._optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # all scores are equal
            return {}
        return {key: float(value) for key, value in found.items()}


def _metrics(results: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> dict[str, float]:
    return {
        f"{task}.{name}": estimate.value
        for task, splits in results.items()
        for name, estimate in splits.get("dev", {}).items()
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
