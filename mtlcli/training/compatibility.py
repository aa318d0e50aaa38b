"""Check which methods work together, as their classes declare it, before data is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtlcli import registry
from mtlcli.architectures.base import Architecture
from mtlcli.balancers.base import Balancer
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.heads.base import Composition
from mtlcli.registry import FAMILIES, METHODS
from mtlcli.regularizers.base import Regularizer
from mtlcli.schedulers.base import Scheduler, fewest_and_most

Method = tuple[str, str]
"""A method as (family, name)."""


@dataclass(frozen=True)
class Methods:
    """Hold the classes and names of a run's methods.

    The scheduler may be an instance, because its options can narrow or widen what its class promises. `names` are those of the
    scheduler, the balancer, the gradient regularizer (empty without one) and the regularizers.
    """

    scheduler: Scheduler | type[Scheduler]
    balancer: type[Balancer]
    gradient_regularizer: type[GradientRegularizer] | None
    regularizers: tuple[type[Regularizer], ...]
    architecture: type[Architecture]
    names: tuple[str, ...]
    architecture_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compares(self) -> bool:
        """Return whether the tasks share trainable parameters on which their gradients can be compared."""
        return self.architecture.compares(self.architecture_options)


@dataclass(frozen=True)
class Problem:
    """Explain why a method cannot be part of a run.

    Attributes:
        reason: completes "METHOD ..."; it names no other method, except the scheduler.
        cure: a change of the configuration that works; empty if there is none.
    """

    method: Method
    reason: str
    cure: str

    def sentence(self) -> str:
        """Return the problem as one line."""
        return f"{self.method[1]} {self.reason}{f'; {self.cure}' if self.cure else ''}"


@dataclass(frozen=True)
class Pair:
    """Hold two methods and the problems of using both in one run, none if they work together."""

    first: Method
    second: Method
    problems: tuple[Problem, ...]

    @property
    def works(self) -> bool:
        """Return whether both can be part of one run."""
        return not self.problems


def problems(methods: Methods, *, tasks: int, micro_batches: int) -> list[Problem]:
    """Return the problems of every method that cannot be part of this run; an empty list if all are compatible."""
    scheduler, balancer, gradient_regularizer, *regularizers = methods.names
    fewest, most = fewest_and_most(methods.scheduler.tasks_per_step, tasks, micro_batches)
    combining: list[tuple[Method, frozenset[str]]] = [(("balancers", balancer), frozenset(methods.balancer.needs))]
    if methods.gradient_regularizer is not None:
        combining.append(
            (("gradient_regularizers", gradient_regularizer), frozenset(methods.gradient_regularizer.needs))
        )
    rejected: list[Problem] = []
    # With one task there is nothing to compare or combine, so every method works.
    for method, needs in combining if tasks > 1 else []:
        if "all-tasks" in needs and fewest < tasks:
            reason = f'needs every task in every step, and the scheduler "{scheduler}" does not guarantee that'
            rejected.append(Problem(method, reason, _scheduler_cure(lambda fewest, most: fewest == tasks, tasks)))
        # `elif`: for a method that needs all tasks, the first reason covers this case.
        elif "several-tasks" in needs and most < 2:
            reason = f'compares the tasks of a step, and the scheduler "{scheduler}" visits one task per step'
            cure = _scheduler_cure(lambda fewest, most: most > 1, tasks)
            # A scheduler that draws visits several tasks per step with more than one draw.
            more = " or --micro-batches 2 or more" if methods.scheduler.tasks_per_step == "draws" else ""
            rejected.append(Problem(method, reason, f"{cure}{more}"))
    towers = has_towers(methods.architecture)
    for method, needs in combining if tasks > 1 and not methods.compares else []:
        if method[0] == "gradient_regularizers" or needs & {"gram", "last-layer-gram"}:
            # Without shared parameters the gradients have no common rows.
            cause = "has one encoder per task" if towers else "shares no trainable parameter with these options"
            reason = f"compares the tasks' gradients on shared parameters, and this architecture {cause}"
            rejected.append(Problem(method, reason, _architecture_cure(towers=False)))
    if methods.architecture.reverses and methods.gradient_regularizer is not None and tasks > 1:
        reason = (
            "removes conflicts between the tasks' gradients, and this architecture reverses gradients to create them"
        )
        rejected.append(
            Problem(("gradient_regularizers", gradient_regularizer), reason, _architecture_cure(towers=False))
        )
    if "several-tasks" in methods.architecture.needs and most < 2 <= tasks:
        reason = (
            "visits one task per step, from which the discriminator of this architecture would only learn that task"
        )
        cure = _scheduler_cure(lambda fewest, most: most > 1, tasks)
        more = " or --micro-batches 2 or more" if methods.scheduler.tasks_per_step == "draws" else ""
        rejected.append(Problem(("schedulers", scheduler), reason, f"{cure}{more}"))
    for name, regularizer in zip(regularizers, methods.regularizers, strict=True):
        if "towers" in regularizer.needs and not towers:
            reason = "pulls the tasks' encoders together, and in this architecture the tasks share one encoder"
            rejected.append(Problem(("regularizers", name), reason, _architecture_cure(towers=True)))
    return rejected


def has_towers(architecture: type[Architecture]) -> bool:
    """Return whether an architecture has one encoder per task."""
    # Overriding the method is the declaration, so that no attribute can contradict it.
    return architecture.towers is not Architecture.towers


def architecture_with_towers() -> str:
    """Return the name of the first architecture with one encoder per task; empty if none can be imported."""
    return _first("architectures", has_towers) or ""


def _scheduler_cure(fits: Callable[[int, int], bool], tasks: int) -> str:
    """Return the flag for the first scheduler whose steps hold enough tasks with one micro-batch; empty if there is none."""
    name = _first("schedulers", lambda scheduler: fits(*fewest_and_most(scheduler.tasks_per_step, tasks, 1)))
    return f"choose --scheduler {name}" if name else ""


def _architecture_cure(*, towers: bool) -> str:
    name = _first("architectures", lambda architecture: has_towers(architecture) == towers)
    return f"choose --set architecture={name}" if name else ""


def _first(family: str, fits: Callable[[Any], bool]) -> str | None:
    """Return the name of the first plugin of a family that fits, preferring the default; None if there is none."""
    for name in dict.fromkeys([FAMILIES[family].default, *registry.names(family)]):
        try:
            if fits(registry.load(family, name, family)):
                return name
        except MtlError:
            continue  # `mtl plugins list` shows a broken plugin
    return None


def pairs(names: Mapping[str, Sequence[str]], *, tasks: int, micro_batches: int) -> list[Pair]:
    """Return every pair of methods of two families.

    Args:
        names: names of methods by family of `METHODS`; a missing family has none.
        tasks: number of tasks of the run.
        micro_batches: micro-batches per step.
    """
    result = []
    for number, family in enumerate(METHODS):
        for other in METHODS[number + 1 :]:
            for first in names.get(family, ()):
                for second in names.get(other, ()):
                    methods = _methods_of({family: first, other: second})
                    reasons = problems(methods, tasks=tasks, micro_batches=micro_batches)
                    result.append(Pair((family, first), (other, second), tuple(reasons)))
    return result


def _methods_of(names: Mapping[str, str]) -> Methods:
    """Return the methods of a run that selects one method per family here, and the defaults of the other families.

    A regularizer that needs one encoder per task gets such an architecture unless the pair names one.
    """

    def plugin(family: str) -> Any:
        name = names.get(family) or FAMILIES[family].default
        return registry.load(family, name, family) if name else None

    regularizer, architecture = plugin("regularizers"), plugin("architectures")
    if regularizer is not None and "towers" in regularizer.needs and "architectures" not in names:
        architecture = registry.load("architectures", architecture_with_towers(), "architectures")
    scheduler, balancer = (names.get(family) or FAMILIES[family].default for family in ("schedulers", "balancers"))
    return Methods(
        plugin("schedulers"), plugin("balancers"), plugin("gradient_regularizers"),
        () if regularizer is None else (regularizer,), architecture,
        (scheduler, balancer, names.get("gradient_regularizers", ""), *([names["regularizers"]] if regularizer else [])),
        registry.check_options(architecture, "", {})[0],
    )  # fmt: skip


def check_combination(config: Config, scheduler: Scheduler | None = None) -> None:
    """Raise if the configured methods cannot work together.

    Called twice: before the data is read with the scheduler's class, and after it is built with the instance, because its
    options can change what it promises.

    Raises:
        MtlError: one line for each method that is incompatible.
    """
    choice = config.gradient_regularizer
    methods = Methods(
        scheduler or config.scheduler.plugin,
        config.balancer.plugin,
        None if choice is None else choice.plugin,
        tuple(regularizer.plugin for regularizer in config.regularizers),
        config.architecture.plugin,
        (
            config.scheduler.name,
            config.balancer.name,
            "" if choice is None else choice.name,
            *(regularizer.name for regularizer in config.regularizers),
        ),
        config.architecture.options,
    )
    # Not fitted: no row has been read yet.
    targets = {name: task.make(name).target for name, task in config.tasks.items()}
    readable = {
        name: target
        if config.head_of(name).plugin.reads_any_text(2 if config.tasks[name].encoding == "bi" else 1, target)
        else None
        for name, target in targets.items()
    }
    config.architecture.plugin.check_tasks(config.architecture.options, readable)
    incompatible = problems(methods, tasks=len(config.tasks), micro_batches=config.training.micro_batches)
    errors = [problem.sentence() for problem in incompatible]
    errors += [
        f'tasks.{name}.head: "{config.head_of(name).name}" needs batches of {composition}, and the scheduler '
        f'"{config.scheduler.name}" selects rows itself; choose another head or scheduler'
        for name in config.tasks
        if methods.scheduler.chooses_rows and (composition := composition_of(config, name)) is not None
    ]
    errors += [
        f'tasks.{name}: has no labels, and the architecture "{config.architecture.name}" adds no loss from which it could learn; choose '
        f"--set architecture={_first('architectures', lambda architecture: architecture.adds_loss)}, or remove the task"
        for name in config.tasks
        if not config.head_of(name).plugin.supervised and not config.architecture.plugin.adds_loss
    ]
    if not any(config.head_of(name).plugin.supervised for name in config.tasks):
        errors.append("no task of the run has labels; add one that has")
    if errors:
        raise MtlError(*errors)


def composition_of(config: Config, task: str) -> Composition | None:
    """Return the composition that a task's head requires of training batches; None if any rows will do."""
    composition: Composition | None = config.head_of(task).plugin.composition
    return composition
