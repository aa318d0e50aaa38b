"""What a study is going to run: methods, seeds and baselines under equal steps, all tried before the first run.

A study is a folder of ordinary runs and study.json. Equal steps: every run makes the same number of optimizer updates with
the same epochs and evaluations, without early stopping. What the updates hold is the recipe's and the method's affair: one
batch of every task with round robin, of one task with a sampling scheduler; the table says how many. A task alone gets as
many updates as it has batches in a round-robin run. Static weights are drawn and tried on dev with a seed of their own, as
the baseline that Xin et al. (NeurIPS 2022, arXiv:2209.11379) find hard to beat.
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
from mtlcli.training.compatibility import check_combination
from mtlcli.training.setup import TrainingRun, set_up

TRIAL_SEED = 1000
"""The seed of the trials, the same in every call of a study: it stays out of the table when a study gets more seeds."""


@dataclass(frozen=True)
class Job:
    """One run to come. `weights` are those of a trial; the configuration of `static` waits for the trials."""

    place: str
    method: str
    kind: Kind
    seed: int
    config: Config | None
    weights: dict[str, float] | None = None


@dataclass(frozen=True)
class StudyPlan:
    """A study before its first run: what will be in study.json, and the runs in order, seed by seed."""

    study: Study
    jobs: tuple[Job, ...]
    base: Config
    notes: tuple[str, ...]


def plan_study(
    base: Config, methods: Sequence[Method], seeds: Sequence[int], *, single_task: bool = True, trials: int = 4,
    cache: Path | None = None,
) -> StudyPlan:  # fmt: skip
    """Reads the data and tries every combination of methods, before any training. Raises MtlError with everything wrong.

    `base` is the recipe; `trials` choices of static weights are tried, none with 0.
    """
    labels = [one.label for one in methods]
    errors = [f'two methods are called "{one}"; rename one' for one in dict.fromkeys(labels) if labels.count(one) > 1]
    errors += [f'"{one}" is the name of a baseline; rename the method' for one in labels if one in (SINGLE, STATIC)]
    if trials and TRIAL_SEED in seeds:
        errors.append(f"--seeds: static weights are tuned with seed {TRIAL_SEED}; choose another one, or --no-tuned")
    if errors:
        raise MtlError(*errors)
    prepared = set_up(_over(base, _weighted(None)), cache=cache)
    steps, per_epoch = prepared.plan.steps, prepared.plan.steps_per_epoch
    tasks = {name: _measured(prepared, name) for name in prepared.dev}
    if not tasks:
        raise MtlError("no task has dev rows, so there is nothing to compare methods by")
    fixed = {"steps": steps, "epochs": None, "steps_per_epoch": per_epoch, "patience": None}
    base = _over(base, Layer({"training": fixed}))
    configs: dict[str, Config] = {}
    for method in methods:
        try:
            configs[method.label] = _over(base, _joined(base, method), Layer({"training": dict(fixed)}))
            _try(configs[method.label], prepared.facts)
        except MtlError as error:
            errors += [line if line.startswith("method ") else f"{method.label}: {line}" for line in error.lines]
    if errors:
        raise MtlError(*dict.fromkeys(errors))
    names = list(base.tasks)
    study = Study(steps, per_epoch, base.training.select_by, tasks, base.plain(), str(prepared.device))
    jobs = _trials(base, names, TRIAL_SEED, trials) if len(names) > 1 else []
    for seed in seeds:
        if single_task:
            jobs += [
                Job(f"{SINGLE}/{name}/seed-{seed}", SINGLE, "single-task", seed, _seeded(_alone(base, name), seed))
                for name in tasks
            ]
        if any(one.kind == "trial" for one in jobs):
            jobs.append(Job(f"{STATIC}/seed-{seed}", STATIC, "static", seed, None))
        jobs += [
            Job(f"{label}/seed-{seed}", label, "method", seed, _seeded(one, seed)) for label, one in configs.items()
        ]
    return StudyPlan(study, tuple(jobs), base, tuple(_notes(prepared, methods)))


def _notes(prepared: TrainingRun, methods: Sequence[Method]) -> list[str]:
    notes = []
    if left_out := list(dict.fromkeys(key for method in methods for key in method.left_out)):
        notes.append(f"what method recipes say of {one_of(left_out)} is not read: the study's own holds for all")
    epochs, per_epoch = len(prepared.plan.epoch_ends), prepared.plan.steps_per_epoch
    if epochs < 3:
        notes.append(
            f"a run has {epochs} epoch{'s' if epochs > 1 else ''} of {per_epoch} steps; methods that go by epochs need several: "
            "--set training.steps_per_epoch=N"
        )
    return notes


def _over(base: Config, *layers: Layer) -> Config:
    """The resolved recipe with layers over it."""
    return resolve([Layer(copy.deepcopy(base.plain())), *copy.deepcopy(layers)])


def _seeded(config: Config, seed: int) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def _weighted(weights: Mapping[str, float] | None) -> Layer:
    """Static weights of the losses, or equal ones, and nothing that combines gradients."""
    balancer = (
        {"name": FAMILIES["balancers"].default} if weights is None else {"name": "static", "weights": dict(weights)}
    )
    return Layer({"balancer": balancer, "gradient_regularizer": None})


def _alone(base: Config, task: str) -> Config:
    """The recipe with this task alone, of which every step has a batch."""
    values = base.plain()
    values["tasks"] = {task: values["tasks"][task]}
    values["training"]["select_by"] = "mean"
    return resolve([Layer(values), _weighted(None), Layer({"scheduler": {"name": FAMILIES["schedulers"].default}})])


def _joined(base: Config, method: Method) -> Layer:
    """The layer of a method, its regularizers behind those of the recipe."""
    if not method.joining:
        return method.layer
    known = [one.name for one in base.regularizers]
    kept = [one.model_dump() for one in base.regularizers]
    added = [{"name": name} for name in method.joining if name not in known]
    return replace(method.layer, values=method.layer.values | {"regularizers": kept + added})


def _trials(base: Config, names: Sequence[str], seed: int, count: int) -> list[Job]:
    """Equal weights first, then weights drawn log-uniformly from 1/4 to 4 and divided by their mean."""
    chance = Random(seed_for(seed, "static weights"))
    jobs = []
    for number in range(count):
        drawn = [4 ** chance.uniform(-1, 1) if number else 1.0 for _ in names]
        weights = {name: round(len(names) * one / sum(drawn), 4) for name, one in zip(names, drawn, strict=True)}
        config = _seeded(_over(base, _weighted(weights)), seed)
        jobs.append(Job(f"trials/{number}/seed-{seed}", STATIC, "trial", seed, config, weights))
    return jobs


def _measured(prepared: TrainingRun, task: str) -> TaskMetric:
    name, metric = next(iter(prepared.metrics[task].items()))
    return TaskMetric(name, metric.higher_is_better)


def _try(config: Config, facts: tuple[TaskFacts, ...]) -> None:
    """Builds what is cheap to build, so that a wrong method is found before the first run. Raises MtlError."""
    check_combination(config)
    run = RunFacts(facts, config.training.seed, config.training.micro_batches)
    scheduler = config.scheduler.make(run)
    for family in ("balancers", "gradient_regularizers", "regularizers"):
        for choice in config.choices(family):
            choice.make(run)
    check_combination(config, scheduler)
    length = config.training
    ends = scheduler.epoch_ends(length.epochs or 1, length.steps, length.steps_per_epoch or scheduler.steps_per_epoch())
    if ends[-1] != length.steps:
        raise MtlError(
            f'the scheduler "{config.scheduler.name}" makes runs of {ends[-1]} steps, the study runs of {length.steps}; give '
            f"--steps {ends[-1]}, or change the scheduler's own lengths"
        )


def with_best_weights(plan: StudyPlan, job: Job) -> Job:
    """The job with the weights of the trial with the best score. Raises MtlError where every trial failed."""
    tried = [
        one for one in plan.study.records if one.kind == "trial" and one.seed == TRIAL_SEED and one.score is not None
    ]
    if not tried:
        raise MtlError("no trial of static weights has finished")
    best = max(tried, key=lambda one: one.score or 0.0)
    return replace(job, config=_seeded(_over(plan.base, _weighted(best.weights)), job.seed), weights=best.weights)
