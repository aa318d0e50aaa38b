"""Which methods work together, as their classes declare it. Checked before data is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    """The methods of a run: their classes, and their names.

    The scheduler may be an instance, because its options can narrow or widen what its class promises. `names` are those of the
    scheduler, the balancer, the gradient regularizer (empty without one) and the regularizers.
    """

    scheduler: Scheduler | type[Scheduler]
    balancer: type[Balancer]
    gradient_regularizer: type[GradientRegularizer] | None
    regularizers: tuple[type[Regularizer], ...]
    architecture: type[Architecture]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Why one method cannot be part of a run.

    `reason` completes "METHOD ...", without the name of any other method; `cure` is a change of the configuration that works.
    """

    method: Method
    reason: str
    cure: str

    def sentence(self) -> str:
        """Return the problem as one line."""
        return f"{self.method[1]} {self.reason}{f'; {self.cure}' if self.cure else ''}"


@dataclass(frozen=True)
class Pair:
    """Two methods, and the problems of using both in one run; no problems if they work together."""

    first: Method
    second: Method
    problems: tuple[Problem, ...]

    @property
    def works(self) -> bool:
        """Whether both can be part of one run."""
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
    found: list[Problem] = []
    for method, needs in combining if tasks > 1 else []:
        if "all-tasks" in needs and fewest < tasks:
            reason = f'needs every task in every step, and the scheduler "{scheduler}" does not guarantee that'
            found.append(Problem(method, reason, _scheduler_cure(lambda fewest, most: fewest == tasks, tasks)))
        elif "several-tasks" in needs and most < 2:
            reason = f'compares the tasks of a step, and the scheduler "{scheduler}" visits one task per step'
            cure = _scheduler_cure(lambda fewest, most: most > 1, tasks)
            more = " or --micro-batches 2 or more" if methods.scheduler.tasks_per_step == "draws" else ""
            found.append(Problem(method, reason, f"{cure}{more}"))
    towers = has_towers(methods.architecture)
    for method, needs in combining if tasks > 1 and towers else []:
        if method[0] == "gradient_regularizers" or needs & {"gram", "last-layer-gram"}:
            reason = (
                "compares the tasks' gradients on shared parameters, and this architecture has one encoder per task"
            )
            found.append(Problem(method, reason, _architecture_cure(towers=False)))
    for name, regularizer in zip(regularizers, methods.regularizers, strict=True):
        if "towers" in regularizer.needs and not towers:
            reason = "pulls the tasks' encoders together, and in this architecture the tasks share one encoder"
            found.append(Problem(("regularizers", name), reason, _architecture_cure(towers=True)))
    return found


def has_towers(architecture: type[Architecture]) -> bool:
    """Return whether an architecture has one encoder per task."""
    return architecture.towers is not Architecture.towers


def architecture_with_towers() -> str:
    """Return the first architecture that has one encoder per task. Raises MtlError if no such architecture works."""
    return _first("architectures", has_towers) or ""


def _scheduler_cure(fits: Callable[[int, int], bool], tasks: int) -> str:
    """Return the flag for the first scheduler whose step holds as many of the tasks as needed, without micro-batches."""
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
        names: the names of each family of `METHODS`; a family that is missing has none.
        tasks: number of tasks of the run.
        micro_batches: micro-batches per step.
    """
    result = []
    for number, family in enumerate(METHODS):
        for other in METHODS[number + 1 :]:
            for first in names.get(family, ()):
                for second in names.get(other, ()):
                    methods = _methods_of({family: first, other: second})
                    found = problems(methods, tasks=tasks, micro_batches=micro_batches)
                    result.append(Pair((family, first), (other, second), tuple(found)))
    return result


def _methods_of(names: Mapping[str, str]) -> Methods:
    """Return the methods of a run that selects these, one per family, and the defaults otherwise.

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
    )
    found = problems(methods, tasks=len(config.tasks), micro_batches=config.training.micro_batches)
    errors = [problem.sentence() for problem in found]
    errors += [
        f'tasks.{name}.head: "{config.head_of(name).name}" needs batches of {composition}, and the scheduler '
        f'"{config.scheduler.name}" selects rows itself; choose another head or scheduler'
        for name in config.tasks
        if methods.scheduler.chooses_rows and (composition := composition_of(config, name)) is not None
    ]
    if errors:
        raise MtlError(*errors)


def composition_of(config: Config, task: str) -> Composition | None:
    """Return how the head of a task wants its training batches composed; None for any rows."""
    composition: Composition | None = config.head_of(task).plugin.composition
    return composition
