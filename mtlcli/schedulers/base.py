"""The contract of a task scheduler: which tasks the next step visits (survey 3.3, 3.4)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mtlcli.news import Listener
from mtlcli.plugin import Plugin, RunFacts

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
    """One task of a step, and how many micro-batches of it make up its loss."""

    task: int
    micro_batches: int = 1


class Scheduler(Plugin, Listener, ABC):
    """Says which tasks each optimizer update visits.

    `tasks_per_step` tells, before data is read, what combinations are possible: `one` task, as many `draws` as
    training.micro_batches says, `several` or `all`. `visits` should depend on (seed, position) and on state in buffers
    alone, never on the number of calls: a resumed run asks again.
    """

    tasks_per_step: TasksPerStep = "one"

    @abstractmethod
    def visits(self, position: Position) -> list[Visit]:
        """Tasks of one step, each at most once."""

    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is seen once, as far as can be expected."""


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
    """`run.micro_batches` independent draws from probabilities (T,), as a function of (seed, step).

    A task drawn n times is visited with n micro-batches: their mean is one loss.
    """
    generator = run.generator(f"draw {position.step}")
    drawn = torch.multinomial(probabilities, run.micro_batches, replacement=True, generator=generator)
    counts = torch.bincount(drawn, minlength=len(probabilities)).tolist()
    return [Visit(task, count) for task, count in enumerate(counts) if count]


def power_of_sizes(run: RunFacts, exponent: float) -> Tensor:
    """p_t proportional to n_t ** exponent, n_t the training rows of task t (T,) float64."""
    logs = torch.tensor([float(task.rows) for task in run.tasks], dtype=torch.float64).log()
    return torch.softmax(exponent * logs, dim=0)


def steps_for_largest(run: RunFacts, probabilities: Tensor) -> int:
    """Steps in which draws from `probabilities` take as many batches of the largest task as it has."""
    largest = max(range(len(run.tasks)), key=lambda task: run.tasks[task].batches)
    per_step = float(probabilities[largest]) * run.micro_batches
    return max(1, round(run.tasks[largest].batches / per_step))
