"""The contract of a task scheduler: the tasks that the next step visits."""

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
from mtlcli.registry import plugin_call, require

TasksPerStep = Literal["one", "draws", "several", "all"]


@dataclass(frozen=True)
class Position:
    """Where the run is; `step` counts from 0."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        """Return the epoch of this step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Return 0 at the first step and 1 at the last; 0 in a run of one step."""
        return self.step / max(1, self.total_steps - 1)


@dataclass(frozen=True)
class Visit:
    """One task of a step: `micro_batches` of it make up one mean loss, whose objective is multiplied by `weight` (> 0).

    Tasks of a step count alike by default. A scheduler that draws sets the weight to the share of the step's draws that
    fell on the task (`draws`), because the mean loss alone would count once however often the task was drawn.
    """

    task: int
    micro_batches: int = 1
    weight: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A part of the run with a separate learning-rate schedule: steps from `start` up to `start + steps`.

    `lr` multiplies every peak learning rate. `frozen` names parts that are not trained: `encoder`, `embeddings`, `heads`,
    `layer.N`, or a task's name for its head. `weights` selects the weights with which a stage after the first begins: the
    `last` ones, or the `best` ones of the run so far. The optimizer's averages restart with the stage.
    """

    start: int
    steps: int
    lr: float = 1.0
    frozen: tuple[str, ...] = ()
    weights: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class Probe:
    """A small validation after a step: the mean loss over `batches` dev batches of each of these tasks."""

    tasks: tuple[int, ...]
    batches: int


@dataclass(frozen=True)
class Candidates:
    """Rows of one task that a scheduler can choose from.

    Attributes:
        count: number of rows.
        uncertainty: (count,) from 0 to 1, how unsure the model is of each row now, without dropout, on the CPU; None for a task
            whose predictions do not tell (`Target.uncertainty`).
    """

    task: int
    count: int
    uncertainty: Tensor | None


class Scheduler(Plugin, ABC):
    """Decides which tasks each optimizer update visits.

    `tasks_per_step` states, before data is read, how many tasks a step can hold: `one`, as many `draws` as
    training.micro_batches, `several` or `all`. `visits` should depend on (seed, position) and on state in buffers alone,
    never on the number of calls, because a resumed run calls it again.
    """

    tasks_per_step: TasksPerStep = "one"
    chooses_rows: ClassVar[bool] = False
    """True if the rows of the visits are candidates, of which `choose` selects some."""

    @abstractmethod
    def visits(self, position: Position) -> list[Visit]:
        """Return the tasks of one step, each at most once."""

    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Return the number of steps in which the largest task is seen once, or is expected to be."""

    def epoch_ends(self, epochs: int, steps: int | None, steps_per_epoch: int) -> list[int]:
        """Return the numbers of steps after which each epoch ends; the last one is the length of the run.

        `steps`, if the user sets it, is that length. Raises MtlError if the scheduler determines the length itself.
        """
        total = steps or epochs * steps_per_epoch
        # `range` excludes `total`, so that a last epoch of full length is not listed twice.
        return [*range(steps_per_epoch, total, steps_per_epoch), total]

    def stage(self, position: Position) -> Stage:
        """Return the part of the run that a step belongs to; by default the run is a single stage."""
        return Stage(0, position.total_steps)

    def probe(self, position: Position) -> Probe | None:
        """Return a validation to run after this step, if any; its result goes to `on_probe`."""
        return None

    def on_probe(self, result: ProbeResult) -> None:
        """React to the losses that `probe` requested. A task without dev rows is missing."""

    def choose(self, pool: Sequence[Candidates], position: Position) -> list[Tensor]:
        """Return, with `chooses_rows`, the indices (m,) int64 of the rows selected per member of the pool; m can be 0."""
        raise NotImplementedError(f"{type(self).__qualname__} chooses rows, but does not override choose")


def visits_at(scheduler: Scheduler, position: Position) -> list[Visit]:
    """Return the visits of one step, checked.

    Raises:
        MtlError: the scheduler of a third party failed, or returned something other than visits of different tasks.
    """
    count = len(scheduler.run.tasks)
    with plugin_call(scheduler, "visits", f"a list of Visit, of one or more different tasks from 0 to {count - 1}"):
        visits = scheduler.visits(position)
        is_list = isinstance(visits, list) and all(isinstance(visit, Visit) for visit in visits)
        require(is_list and len(visits) > 0, f"returned {visits!r:.100} at step {position.step}")
        tasks = [visit.task for visit in visits]
        require(
            len(set(tasks)) == len(tasks) and all(0 <= task < count for task in tasks),
            f"returned the tasks {tasks} at step {position.step}",
        )
    return visits


def stage_at(scheduler: Scheduler, position: Position) -> Stage:
    """Return the stage of a step, checked likewise."""
    with plugin_call(scheduler, "stage", "a Stage that the step lies in"):
        stage = scheduler.stage(position)
        require(
            isinstance(stage, Stage) and stage.start <= position.step < stage.start + stage.steps,
            f"returned {stage!r:.100} at step {position.step}",
        )
    return stage


def fewest_and_most(tasks_per_step: TasksPerStep, tasks: int, micro_batches: int) -> tuple[int, int]:
    """Return the smallest and largest number of distinct tasks in a step."""
    match tasks_per_step:
        case "one":
            return 1, 1
        case "draws":
            # All draws of a step can fall on one task.
            return 1, min(tasks, micro_batches)
        case "several":
            return 1, tasks
        case _:
            return tasks, tasks


def draw(run: RunFacts, probabilities: Tensor, position: Position) -> list[Visit]:
    """Draw `run.micro_batches` tasks independently from probabilities (T,), as a function of (seed, step)."""
    # Seeded by the step, so that a resumed run draws the same tasks.
    generator = run.generator(f"draw {position.step}")
    return draws(torch.multinomial(probabilities, run.micro_batches, replacement=True, generator=generator).tolist())


def draws(tasks: Sequence[int]) -> list[Visit]:
    """Return the visits of a step whose micro-batches are of these tasks, in any order and with repetitions.

    A task drawn n times of m is visited with n micro-batches and weight n / m. The step's gradient is then the mean over
    all m micro-batches, as if rows of all tasks had been shuffled together, whatever m is. With m = 1 the weight is 1.
    """
    # Sorted below, so that the order of the passes does not depend on the order of the draws.
    counts = Counter(tasks)
    return [Visit(task, counts[task], counts[task] / len(tasks)) for task in sorted(counts)]


def power_of_sizes(run: RunFacts, exponent: float) -> Tensor:
    """Return p_t proportional to n_t ** exponent, where n_t is the number of training rows of task t, (T,) float64."""
    # In logs, because sizes to a high power overflow.
    logs = torch.tensor([float(task.rows) for task in run.tasks], dtype=torch.float64).log()
    return torch.softmax(exponent * logs, dim=0)


def steps_for_largest(run: RunFacts, probabilities: Tensor) -> int:
    """Return the number of steps in which draws from `probabilities` take as many batches of the largest task as it has."""
    # By batches rather than rows, because tasks can have batches of different sizes.
    largest = max(range(len(run.tasks)), key=lambda task: run.tasks[task].batches)
    per_step = float(probabilities[largest]) * run.micro_batches
    # More draws per step than the task has batches still make one step.
    return max(1, round(run.tasks[largest].batches / per_step))


def task_named(run: RunFacts, name: str, option: str) -> int:
    """Return the index of a task that an option names. Raises MtlError if the run has no task of this name."""
    names = [task.name for task in run.tasks]
    if name not in names:
        raise MtlError(f'scheduler.{option}: no task "{name}"{suggest(name, names)}')
    return names.index(name)
