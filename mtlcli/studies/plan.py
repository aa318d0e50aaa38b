"""Plan a study: methods, seeds and baselines under equal steps, all checked before the first run.

A study is a folder of ordinary runs and study.json. Equal steps: every run makes the same number of optimizer updates with
the same epochs and evaluations, without early stopping. The recipe and the method decide what an update contains: one batch
of every task with round robin, of one task with a sampling scheduler; the table shows how many. Single-task training gets as
many updates as the task has batches in a round-robin run. Static weights are tuned on dev with a separate seed, as the
baseline that Xin et al. (NeurIPS 2022, arXiv:2209.11379) find hard to beat.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError, one_of
from mtlcli.facts import RunFacts, TaskFacts, seed_for
from mtlcli.registry import FAMILIES
from mtlcli.studies.methods import Method
from mtlcli.studies.results import SINGLE, STATIC, Kind, Study, TaskMetric
from mtlcli.trackers.session import make_trackers
from mtlcli.training.compatibility import check_combination
from mtlcli.training.setup import TrainingRun, set_up

TRIAL_SEED = 1000
"""The seed of the trials, the same in every call of a study, so that it stays out of the table when seeds are added."""


@dataclass(frozen=True)
class Job:
    """Describe a planned run. `weights` are those of a trial; `config` is None for `static` until the trials are done."""

    place: str
    method: str
    kind: Kind
    seed: int
    config: Config | None
    weights: dict[str, float] | None = None


@dataclass(frozen=True)
class StudyPlan:
    """Hold a study before its first run: the initial content of study.json, and the runs in order, seed by seed."""

    study: Study
    jobs: tuple[Job, ...]
    base: Config
    notes: tuple[str, ...]


def plan_study(
    base: Config, methods: Sequence[Method], seeds: Sequence[int], *, single_task: bool = True, trials: int = 4,
    cache: Path | None = None,
) -> StudyPlan:  # fmt: skip
    """Read the data and check every combination of methods, before any training.

    Args:
        base: the recipe.
        methods: the rows of the table.
        seeds: seeds of the runs of each method.
        single_task: also train each task alone.
        trials: choices of static weights to try; 0 for no tuned baseline.
        cache: folder of token caches; None for none.

    Raises:
        MtlError: all errors at once.
    """
    labels = [method.label for method in methods]
    errors = [
        f'two methods are called "{label}"; rename one' for label in dict.fromkeys(labels) if labels.count(label) > 1
    ]
    errors += [
        f'"{label}" is the name of a baseline; rename the method' for label in labels if label in (SINGLE, STATIC)
    ]
    if trials and TRIAL_SEED in seeds:
        errors.append(f"--seeds: static weights are tuned with seed {TRIAL_SEED}; choose another seed, or --no-tuned")
    if errors:
        raise MtlError(*errors)
    make_trackers(base.trackers)  # every run makes its own; a missing package is an error of the study

    prepared = set_up(over(base, weighted(None)), cache=cache)
    steps, per_epoch = prepared.plan.steps, prepared.plan.steps_per_epoch
    tasks = {name: task_metric(prepared, name) for name in prepared.dev}
    if not tasks:
        raise MtlError(
            "no task that counts has dev rows to compare methods on; set tasks.NAME.dev for at least one task"
        )
    # Early stopping would give methods different numbers of updates.
    fixed = {"steps": steps, "epochs": None, "steps_per_epoch": per_epoch, "patience": None}
    base = over(base, Layer({"training": fixed}))
    configs: dict[str, Config] = {}
    for method in methods:
        try:
            configs[method.label] = over(base, _joined(base, method), Layer({"training": dict(fixed)}))
            _try(configs[method.label], prepared.facts)
        except MtlError as error:
            errors += [line if line.startswith("method ") else f"{method.label}: {line}" for line in error.lines]
    if errors:
        raise MtlError(*dict.fromkeys(errors))
    names = list(base.tasks)
    study = Study(steps, per_epoch, base.training.select_by, tasks, base.plain(), str(prepared.device))
    # A single task has no weights to tune.
    jobs = _trials(base, names, TRIAL_SEED, trials) if len(names) > 1 else []
    # Seed by seed, so that a study that is interrupted can compare all methods on the seeds that are finished.
    for seed in seeds:
        if single_task:
            jobs += [
                Job(f"{SINGLE}/{name}/seed-{seed}", SINGLE, "single-task", seed, seeded(only(base, [name]), seed))
                for name in tasks
            ]
        if any(job.kind == "trial" for job in jobs):
            jobs.append(Job(f"{STATIC}/seed-{seed}", STATIC, "static", seed, None))
        jobs += [
            Job(f"{label}/seed-{seed}", label, "method", seed, seeded(config, seed))
            for label, config in configs.items()
        ]
    return StudyPlan(study, tuple(jobs), base, tuple(_notes(prepared, methods)))


def _notes(prepared: TrainingRun, methods: Sequence[Method]) -> list[str]:
    notes = []
    if left_out := list(dict.fromkeys(key for method in methods for key in method.left_out)):
        notes.append(f"ignored in method recipes, because the study sets them for all methods: {one_of(left_out)}")
    epochs, per_epoch = len(prepared.plan.epoch_ends), prepared.plan.steps_per_epoch
    if epochs < 3:
        notes.append(
            f"a run has {epochs} epoch{'s' if epochs > 1 else ''} of {per_epoch} steps; methods that act once per epoch need "
            "several: --set training.steps_per_epoch=N"
        )
    return notes


def over(base: Config, *layers: Layer) -> Config:
    """Resolve the recipe with more layers on top. Copies, because resolving changes the layers."""
    return resolve([Layer(copy.deepcopy(base.plain())), *copy.deepcopy(layers)])


def seeded(config: Config, seed: int) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def weighted(weights: Mapping[str, float] | None) -> Layer:
    """Return a layer with static weights of the losses, or equal ones, and no gradient regularizer."""
    balancer = (
        {"name": FAMILIES["balancers"].default} if weights is None else {"name": "static", "weights": dict(weights)}
    )
    return Layer({"balancer": balancer, "gradient_regularizer": None})


def only(base: Config, tasks: Sequence[str]) -> Config:
    """Return the recipe with these tasks alone, equal weights, and one batch of each in every step."""
    values = base.plain()
    values["tasks"] = {task: values["tasks"][task] for task in tasks}
    values["training"]["select_by"] = "mean"  # the recipe may name a metric of another task
    return resolve([Layer(values), weighted(None), Layer({"scheduler": {"name": FAMILIES["schedulers"].default}})])


def _joined(base: Config, method: Method) -> Layer:
    """Return the layer of a method, with its regularizers after those of the recipe."""
    if not method.joining:
        return method.layer
    names = [regularizer.name for regularizer in base.regularizers]
    stored = [regularizer.model_dump() for regularizer in base.regularizers]
    added = [{"name": name} for name in method.joining if name not in names]
    return replace(method.layer, values=method.layer.values | {"regularizers": stored + added})


def _trials(base: Config, names: Sequence[str], seed: int, count: int) -> list[Job]:
    """Return the trials: equal weights first, then weights drawn log-uniformly from 1/4 to 4 and divided by their mean."""
    random = Random(seed_for(seed, "static weights"))
    jobs = []
    for number in range(count):
        drawn = [4 ** random.uniform(-1, 1) if number else 1.0 for _ in names]
        # A mean of 1 keeps the learning rate comparable between trials.
        weights = {name: round(len(names) * weight / sum(drawn), 4) for name, weight in zip(names, drawn, strict=True)}
        config = seeded(over(base, weighted(weights)), seed)
        jobs.append(Job(f"trials/{number}/seed-{seed}", STATIC, "trial", seed, config, weights))
    return jobs


def task_metric(prepared: TrainingRun, task: str) -> TaskMetric:
    name, metric = next(iter(prepared.metrics[task].items()))
    return TaskMetric(name, metric.higher_is_better)


def _try(config: Config, facts: tuple[TaskFacts, ...]) -> None:
    """Build the plugins of a method, which is cheap, so that errors appear before the first run. Raise MtlError."""
    check_combination(config)
    run = RunFacts(facts, config.training.seed, config.training.micro_batches)
    scheduler = config.scheduler.make(run)
    # Constructors check more than the types and bounds of options.
    for family in ("balancers", "gradient_regularizers", "regularizers"):
        for choice in config.choices(family):
            choice.make(run)
    check_combination(config, scheduler)
    length = config.training
    # A scheduler such as `stages` has a length of its own.
    ends = scheduler.epoch_ends(length.epochs or 1, length.steps, length.steps_per_epoch or scheduler.steps_per_epoch())
    if ends[-1] != length.steps:
        raise MtlError(
            f'the scheduler "{config.scheduler.name}" fixes the length at {ends[-1]} steps, but the study has {length.steps}; '
            f"set --steps {ends[-1]}, or change the lengths in the scheduler's options"
        )


def with_best_weights(plan: StudyPlan, job: Job) -> Job:
    """Return the job with the weights of the trial with the best score. Raise MtlError if every trial failed."""
    trials = [
        record
        for record in plan.study.records
        # An older study may hold trials of another seed.
        if record.kind == "trial" and record.seed == TRIAL_SEED and record.score is not None
    ]
    if not trials:
        raise MtlError("every trial of static weights failed")
    # No score in `trials` is None; `or 0.0` is for the type checker.
    best = max(trials, key=lambda record: record.score or 0.0)
    return replace(job, config=seeded(over(plan.base, weighted(best.weights)), job.seed), weights=best.weights)
