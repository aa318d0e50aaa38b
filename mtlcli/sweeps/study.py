"""The trials of a sweep in Optuna's storage: asking for values, telling how a trial ended, and taking up trials of lost workers."""

import hashlib
import json
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.facts import seed_for
from mtlcli.files import locked
from mtlcli.sweeps import leases
from mtlcli.sweeps.plan import SweepPlan, startup_trials
from mtlcli.sweeps.results import DONE, FAILED, PRUNED, RUNNING, WAITING, Trial
from mtlcli.sweeps.storage import import_optuna, open_storage

ATTEMPTS = 3
"""Workers that may end in one trial before it counts as failed."""
YOUNG = 3.0
"""Seconds after which a trial without a living worker counts as lost: its worker may be about to take the lease."""
IMPOSSIBLE_IN_A_ROW = 50
PLACE, GOES_ON, ATTEMPT, WORKER, ERROR, METRICS, TIME = (
    "place",
    "goes_on",
    "attempts",
    "worker",
    "error",
    "metrics",
    "seconds",
)
"""Names of what a trial has in the storage besides its values and scores."""


@dataclass(frozen=True)
class Asked:
    """A trial to train.

    Attributes:
        trial: Optuna's object.
        values: values by key of the space.
        place: folder of its run, relative to that of the sweep.
        lease: held while this worker trains it.
    """

    trial: Any
    values: dict[str, Any]
    config: Config
    place: str
    lease: leases.Lease

    @property
    def is_resumed(self) -> bool:
        """Return whether another worker, or an earlier call, had begun it."""
        return GOES_ON in self.trial.user_attrs


class TrialStudy:
    """Optuna's study of a sweep, as one of its workers uses it.

    Attributes:
        name: of this worker.
    """

    def __init__(self, plan: SweepPlan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self._optuna = import_optuna()
        # Under a lock: two workers that start together would both count as the first, and enqueue the recipe twice.
        with locked(folder / ".ask.lock"):
            self._storage = open_storage(plan.storage, folder)
            self._study = self._open()
            workers = self._study.user_attrs.get("workers", 0)
            self._study.set_user_attr("workers", workers + 1)
            # Samplers of equal seeds would ask for equal values.
            # NumPy takes seeds of 32 bits.
            self._study.sampler = self._sampler(seed_for(plan.base.training.seed, "sweep", workers) % 2**32)
            if not workers and (values := plan.space.default(plan.base)) is not None:
                self._study.enqueue_trial(self._stored(values))
        self.name = f"{socket.gethostname()}-{workers + 1}"

    def _open(self) -> Any:
        optuna, plan = self._optuna, self.plan
        # The steps of a trial are its evaluations, counted from 1, so trials are compared after 1, 3, 9, ... of them.
        pruner = (
            optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
            if plan.prunes
            else optuna.pruners.NopPruner()
        )
        # A database can hold many sweeps, a journal has one.
        name = digest([plan.base.plain(), plan.space.canonical(), plan.objectives])[:16] if plan.storage else "sweep"

        return optuna.create_study(
            storage=self._storage, study_name=f"mtl-{name}", directions=list(plan.directions), pruner=pruner, load_if_exists=True,
            # `__init__` replaces it by one with the seed of this worker.
            sampler=self._sampler(0),
        )  # fmt: skip

    def _sampler(self, seed: int) -> Any:
        if self.plan.sampler == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        # `group` lets keys with conditions be modeled together, `constant_liar` keeps workers from asking for the same values.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `group` is called experimental
            return self._optuna.samplers.TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=startup_trials(self.plan.space),
                seed=seed,
            )

    def _stored(self, values: Mapping[str, Any]) -> dict[str, Any]:
        by_key = {dimension.key: dimension for dimension in self.plan.space.dimensions}
        return {
            key: by_key[key].labels[by_key[key].choices.index(value)] if by_key[key].choices else value
            for key, value in values.items()
        }

    # Asking

    def ask(self) -> Asked | None:
        """Return a trial to train, with its lease; None where enough have begun.

        Raises:
            MtlError: almost no values of the space can be trained.
        """
        for attempt in range(IMPOSSIBLE_IN_A_ROW):
            # Counting and asking are under one lock, or several workers would begin more trials than planned.
            with locked(self.folder / ".ask.lock"):
                self._take_up_lost()
                records = self._study.get_trials(deepcopy=False)
                waiting = [record for record in records if record.state.name == "WAITING"]
                # By place, because a trial that another worker took over is two records of one folder.
                places = {record.user_attrs[PLACE] for record in records if PLACE in record.user_attrs}
                if not waiting and len(places) >= self.plan.trials:
                    return None
                # TPE does not learn from failed trials, and can propose the same impossible values again.
                if attempt == IMPOSSIBLE_IN_A_ROW // 2:
                    self._study.sampler = self._optuna.samplers.RandomSampler()
                trial = self._study.ask()
                values = self._suggest(trial)
                try:
                    config = self.plan.space.config(self.plan.base, values, f"trial {trial.number}")
                except MtlError as error:
                    trial.set_user_attr(ERROR, error.lines[0])
                    self._fail(trial.number)
                    continue
                # A trial that is taken over has the place of the lost one.
                place = trial.user_attrs.get(PLACE) or f"trials/{trial.number:03}"
                lease = leases.take(self.folder / place)
                if lease is None:
                    continue
                # After the lease is taken, because a trial with a place and a free lease counts as lost.
                trial.set_user_attr(PLACE, place)
                trial.set_user_attr(WORKER, self.name)
                trial.set_user_attr(ATTEMPT, trial.user_attrs.get(ATTEMPT, 1))
                return Asked(trial, values, config, place, lease)
        raise MtlError(
            f"{self.plan.space.name}: {IMPOSSIBLE_IN_A_ROW} proposals in a row cannot be trained; narrow the space"
        )

    def _fail(self, number: int) -> None:
        self._study.tell(number, state=self._state("FAIL"))

    def _state(self, name: str) -> Any:
        return self._optuna.trial.TrialState[name]

    def _suggest(self, trial: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        # `active` evaluates conditions on `values`, which this loop fills.
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
        """Enqueue the trials of workers that have ended; they resume from their last checkpoint in the same folder."""
        for lost in self._study.get_trials(deepcopy=False, states=(self._state("RUNNING"),)):
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
                    # Through the storage, because an attribute that is set on a frozen trial is not stored.
                    self._storage.set_trial_user_attr(lost._trial_id, ERROR, f"{attempts} workers ended in this trial")
                self._fail(lost.number)
                if again:
                    attributes = {PLACE: place, GOES_ON: lost.number, ATTEMPT: attempts + 1}
                    # A new trial with the same values, because Optuna cannot resume one.
                    self._study.enqueue_trial(lost.params, user_attrs=attributes)
            finally:
                # Whichever worker asks for the new trial takes the lease again.
                lease.release()

    # Telling

    def report(self, asked: Asked, score: float, evaluation: int) -> None:
        """Store the score of an evaluation, counted from 1."""
        asked.trial.report(score, evaluation)

    def should_prune(self, asked: Asked) -> bool:
        """Return whether the trial has fallen behind the others."""
        return bool(asked.trial.should_prune())

    def tell(
        self, asked: Asked, state: str, *, values: Sequence[float | None] = (), seconds: float | None = None,
        metrics: Mapping[str, float] | None = None, error: str = "",
    ) -> None:  # fmt: skip
        """Store the end of a trial, unless it has been given to another worker meanwhile: this one gave no sign of life.

        Args:
            state: COMPLETE, PRUNED or FAIL.
        """
        if self._study.get_trials(deepcopy=False)[asked.trial.number].state.is_finished():
            return
        try:
            for name, value in ((TIME, seconds), (METRICS, metrics), (ERROR, error)):
                if value:
                    asked.trial.set_user_attr(name, value)
            self._study.tell(asked.trial.number, list(values) or None, state=self._state(state))
        except (ValueError, RuntimeError, AssertionError):
            # Ended meanwhile, or by a first call whose answer was lost.
            if not self._study.get_trials(deepcopy=False)[asked.trial.number].state.is_finished():
                raise

    # Reading

    def trials(self) -> list[Trial]:
        """Return the trials of the storage, except those that another trial resumes and proposals that cannot be trained."""
        records = self._study.get_trials(deepcopy=False)
        # The record of a lost trial is superseded by that of the trial that resumes it.
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

    def importance(self) -> dict[str, float]:
        """Return the share of each key in the spread of the scores; none for few trials or several objectives."""
        done = [trial for trial in self.trials() if trial.state == DONE]
        if len(done) < 20 or len(self.plan.objectives) > 1:
            return {}
        try:
            evaluator = self._optuna.importance.PedAnovaImportanceEvaluator()
            importance = self._optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # all scores are equal
            return {}
        return {key: float(value) for key, value in importance.items()}


def digest(value: Any) -> str:
    """Return the SHA-256 of a value that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
