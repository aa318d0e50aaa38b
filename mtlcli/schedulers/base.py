"""The contract of a task scheduler: which tasks the next step visits (survey 3.3, 3.4)."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts
from mtlcli.plugin import Plugin, ProbeResult

TasksPerStep = Literal["one", "draws", "several", "all"]


@dataclass(frozen=True)
class Position:
    """Where the run is: `step` counts from 0."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        """Epoch of this step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last; 0 in a run of one step."""
        return self.step / max(1, self.total_steps - 1)


@dataclass(frozen=True)
class Visit:
    """One task of a step: `micro_batches` of it make up one mean loss, whose objective is multiplied by `weight` (> 0).

    Tasks of a step count alike by default. A scheduler that draws sets the weight to the share of the step's draws that fell on
    the task (`draws`), because the mean loss alone would count once however often the task was drawn.
    """

    task: int
    micro_batches: int = 1
    weight: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A part of the run with a learning-rate schedule of its own: steps from `start` up to `start + steps`.

    `lr` multiplies every peak learning rate. `frozen` names parts that do not learn: `encoder`, `embeddings`, `heads`,
    `layer.N` or a task's name for its head. `weights` says where a stage that is not the first begins: from the `last`
    weights before it, or from the `best` ones of the run so far; the optimizer's averages start anew with it.
    """

    start: int
    steps: int
    lr: float = 1.0
    frozen: tuple[str, ...] = ()
    weights: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class Probe:
    """A small validation after a step: mean loss over so many dev batches of each of these tasks."""

    tasks: tuple[int, ...]
    batches: int


@dataclass(frozen=True)
class Candidates:
    """Rows of one task that a scheduler may choose from: probabilities (n, classes) that the model gives them now, without
    gradient and dropout, on the CPU; None for a task with scores. `count` is n."""

    task: int
    count: int
    probabilities: Tensor | None


class Scheduler(Plugin, ABC):
    """Says which tasks each optimizer update visits.

    `tasks_per_step` tells, before data is read, what combinations are possible: `one` task, as many `draws` as
    training.micro_batches says, `several` or `all`. `visits` should depend on (seed, position) and on state in buffers
    alone, never on the number of calls: a resumed run asks again.
    """

    tasks_per_step: TasksPerStep = "one"
    chooses_rows: ClassVar[bool] = False
    """Whether the rows of the visits are candidates of which `choose` keeps some."""

    @abstractmethod
    def visits(self, position: Position) -> list[Visit]:
        """Tasks of one step, each at most once."""

    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is seen once, as far as can be expected."""

    def epoch_ends(self, epochs: int, steps: int | None, steps_per_epoch: int) -> list[int]:
        """Numbers of steps after which each epoch ends; the last one is the length of the run.

        `steps`, where the user gives it, is that length. Raises MtlError where the scheduler fixes the length itself.
        """
        total = steps or epochs * steps_per_epoch
        return [*range(steps_per_epoch, total, steps_per_epoch), total]

    def stage(self, position: Position) -> Stage:
        """The part of the run that a step belongs to; by default the run is one."""
        return Stage(0, position.total_steps)

    def probe(self, position: Position) -> Probe | None:
        """What to validate after this step, if anything; answered by `on_probe`."""
        return None

    def on_probe(self, result: ProbeResult) -> None:
        """Called with the losses that `probe` asked for. A task without dev rows is missing."""

    def choose(self, pool: Sequence[Candidates], position: Position) -> list[Tensor]:
        """With `chooses_rows`: the numbers (m,) int64 of the rows kept of each member of the pool, perhaps none of some."""
        raise NotImplementedError(f"{type(self).__qualname__} chooses rows, but does not override choose")


def fewest_and_most(tasks_per_step: TasksPerStep, tasks: int, micro_batches: int) -> tuple[int, int]:
    """How many distinct tasks a step can hold."""
    match tasks_per_step:
        case "one":
            return 1, 1
        case "draws":
            return 1, min(tasks, micro_batches)
        case "several":
            return 1, tasks
        case _:
            return tasks, tasks


def draw(run: RunFacts, probabilities: Tensor, position: Position) -> list[Visit]:
    """Draw `run.micro_batches` tasks independently from probabilities (T,), as a function of (seed, step)."""
    generator = run.generator(f"draw {position.step}")
    return draws(torch.multinomial(probabilities, run.micro_batches, replacement=True, generator=generator).tolist())


def draws(tasks: Sequence[int]) -> list[Visit]:
    """Return the visits of a step whose micro-batches are of these tasks, in any order and with repetitions.

    A task drawn n times of m is visited with n micro-batches and weight n / m. The step's gradient is then the mean over all m
    micro-batches, as if rows of all tasks had been shuffled together, whatever m is. With m = 1 the weight is 1.
    """
    counts = Counter(tasks)
    return [Visit(task, counts[task], counts[task] / len(tasks)) for task in sorted(counts)]


def power_of_sizes(run: RunFacts, exponent: float) -> Tensor:
    """p_t proportional to n_t ** exponent, n_t the training rows of task t (T,) float64."""
    logs = torch.tensor([float(task.rows) for task in run.tasks], dtype=torch.float64).log()
    return torch.softmax(exponent * logs, dim=0)


def steps_for_largest(run: RunFacts, probabilities: Tensor) -> int:
    """Steps in which draws from `probabilities` take as many batches of the largest task as it has."""
    largest = max(range(len(run.tasks)), key=lambda task: run.tasks[task].batches)
    per_step = float(probabilities[largest]) * run.micro_batches
    return max(1, round(run.tasks[largest].batches / per_step))


def task_named(run: RunFacts, name: str, option: str) -> int:
    """Index of a task that an option names. Raises MtlError where the run has none of this name."""
    names = [task.name for task in run.tasks]
    if name not in names:
        raise MtlError(f'scheduler.{option}: no task "{name}"{suggest(name, names)}')
    return names.index(name)


def chance_loss(run: RunFacts, task: int) -> float:
    """The loss of knowing nothing: log C for C classes, 1 for a score, whose error is in standard deviations."""
    labels = run.tasks[task].labels
    return 1.0 if labels is None else math.log(max(2, len(labels)))
