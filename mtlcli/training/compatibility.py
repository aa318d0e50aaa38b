"""Which methods work together: said by what each class declares, before data is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtlcli import registry
from mtlcli.architectures.base import Architecture
from mtlcli.balancers.base import Balancer
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.heads.base import Composition, Head
from mtlcli.regularizers.base import Regularizer
from mtlcli.schedulers.base import Scheduler, fewest_and_most


@dataclass(frozen=True)
class Methods:
    """What a run combines, as classes; the scheduler may be one that is built, whose options promise more or less."""

    scheduler: Scheduler | type[Scheduler]
    balancer: type[Balancer]
    gradient_regularizer: type[GradientRegularizer] | None
    regularizers: tuple[type[Regularizer], ...]
    architecture: type[Architecture]


def problems(methods: Methods, scheduler: str, names: Sequence[str], *, tasks: int, micro_batches: int) -> list[str]:
    """One sentence for each method that cannot do its work in this company; none where all can.

    `scheduler` is its name; `names` are those of the balancer, the gradient regularizer (empty without) and the regularizers.
    """
    found: list[str] = []
    fewest, most = fewest_and_most(methods.scheduler.tasks_per_step, tasks, micro_batches)
    chosen = [(names[0], methods.balancer.needs)]
    if methods.gradient_regularizer is not None:
        chosen.append((names[1], methods.gradient_regularizer.needs))
    for name, needs in chosen if tasks > 1 else []:
        cure = "choose --scheduler round-robin"
        if "all-tasks" in needs and fewest < tasks:
            found.append(
                f'{name} needs every task in every step, which the scheduler "{scheduler}" does not promise: {cure}'
            )
        elif "several-tasks" in needs and most < 2:
            more = " or --micro-batches 2 or more" if methods.scheduler.tasks_per_step == "draws" else ""
            found.append(
                f'{name} compares the tasks of a step, but the scheduler "{scheduler}" visits one task a step: {cure}{more}'
            )
    has_towers = methods.architecture.towers is not Architecture.towers
    for name, needs in chosen if tasks > 1 and has_towers else []:
        if name == names[1] or needs & {"gram", "last-layer-gram"}:
            found.append(
                f"{name} compares the tasks' gradients on what they share, but this architecture gives each an encoder of "
                "its own: choose --set architecture=hard-sharing"
            )
    for name, regularizer in zip(names[2:], methods.regularizers, strict=True):
        if "towers" in regularizer.needs and not has_towers:
            found.append(
                f"{name} holds the tasks' own encoders together, but this architecture gives them one to share: "
                "choose --set architecture=soft-sharing"
            )
    return found


@dataclass(frozen=True)
class Pair:
    """Two methods, each a (family, name), and why they cannot be in one run; `problem` is empty where they can."""

    first: tuple[str, str]
    second: tuple[str, str]
    problem: str


FAMILIES = ("schedulers", "balancers", "gradient_regularizers", "regularizers", "architectures")
NEUTRAL = {"schedulers": "round-robin", "balancers": "equal", "architectures": "hard-sharing"}
"""What stands in the place of a family that a pair does not name."""


def pairs(names: Mapping[str, Sequence[str]], *, tasks: int, micro_batches: int) -> list[Pair]:
    """Every two methods of different families, `names` being those of each family of FAMILIES, with everything else neutral."""
    found = []
    for at, one in enumerate(FAMILIES):
        for other in FAMILIES[at + 1 :]:
            for first in names.get(one, ()):
                for second in names.get(other, ()):
                    chosen = {one: first, other: second}
                    found.append(Pair((one, first), (other, second), _problem(chosen, tasks, micro_batches)))
    return found


def _problem(chosen: Mapping[str, str], tasks: int, micro_batches: int) -> str:
    """Why these methods, one a family, cannot be in one run of so many tasks; families left out are neutral.

    A regularizer that needs towers gets them unless an architecture is named.
    """

    def plugin(family: str) -> Any:
        name = chosen.get(family, NEUTRAL.get(family))
        return None if name is None else registry.load(family, name, family)

    regularizer, architecture = plugin("regularizers"), plugin("architectures")
    if regularizer is not None and "towers" in regularizer.needs and "architectures" not in chosen:
        architecture = registry.load("architectures", "soft-sharing", "architectures")
    methods = Methods(
        plugin("schedulers"), plugin("balancers"), plugin("gradient_regularizers"),
        () if regularizer is None else (regularizer,), architecture,
    )  # fmt: skip
    names = [chosen.get("balancers", "equal"), chosen.get("gradient_regularizers", "")]
    names += [chosen["regularizers"]] if "regularizers" in chosen else []
    scheduler = chosen.get("schedulers", NEUTRAL["schedulers"])
    return "; ".join(problems(methods, scheduler, names, tasks=tasks, micro_batches=micro_batches))


def check_combination(config: Config, built: Scheduler | None = None) -> None:
    """Refuses methods that cannot work together: by the scheduler's class before data is read, and again by the one that was
    `built`, whose options may promise less. Raises MtlError with one sentence each."""
    choice = config.gradient_regularizer
    methods = Methods(
        built or registry.load("schedulers", config.scheduler.name, "scheduler"),
        registry.load("balancers", config.balancer.name, "balancer"),
        registry.load("gradient_regularizers", choice.name, "gradient_regularizer") if choice else None,
        tuple(registry.load("regularizers", one.name, "regularizers") for one in config.regularizers),
        registry.load("architectures", config.architecture.name, "architecture"),
    )
    names = [config.balancer.name, choice.name if choice else ""]
    names += [one.name for one in config.regularizers]
    errors = problems(
        methods, config.scheduler.name, names, tasks=len(config.tasks), micro_batches=config.training.micro_batches
    )
    errors += [
        f'tasks.{name}.head: its batches are {composition}, but the scheduler "{config.scheduler.name}" chooses rows'
        for name in config.tasks
        if methods.scheduler.chooses_rows and (composition := composition_of(config, name)) is not None
    ]
    if errors:
        raise MtlError(*errors)


def composition_of(config: Config, task: str) -> Composition | None:
    """What the head of a task asks of its training batches."""
    section = config.tasks[task].head
    head: type[Head] = registry.load("heads", section.name if section else "", f"tasks.{task}.head")
    return head.composition
