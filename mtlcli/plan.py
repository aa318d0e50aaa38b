"""The mixing plan: what a run is going to do, counted by the scheduler that will do it."""

from copy import deepcopy
from dataclasses import dataclass

from mtlcli.schedulers.base import Position, Scheduler


@dataclass(frozen=True)
class TaskPlan:
    """One task of the plan. `share` is its part of all micro-batches, `passes` how often its rows are seen, and
    `truncated` how many of its texts are longer than max_length."""

    name: str
    rows: int
    dev_rows: int
    batch_size: int
    share: float
    passes: float
    truncated: int
    texts: int
    encoding: str
    head: str
    parameters: int


@dataclass(frozen=True)
class Plan:
    """The whole run before step 1. `epoch_ends` are the steps after which each epoch ends, `rows_buffer_bytes` is what the
    gradient rows will take, 0 where they are not needed; `forward_passes` and `backward_passes` are what regularizers add to
    the one of each batch."""

    tasks: tuple[TaskPlan, ...]
    steps: int
    steps_per_epoch: int
    epoch_ends: tuple[int, ...]
    scheduler: str
    balancer: str
    encoder: str
    encoder_parameters: int
    device: str
    precision: str
    rows_buffer_bytes: int
    forward_passes: float
    backward_passes: float
    first_step: int
    notes: tuple[str, ...]


def visits_by_phase(scheduler: Scheduler, tasks: int, steps: int, steps_per_epoch: int) -> dict[int, list[int]]:
    """Micro-batches of each task in each phase, by the step it begins at, as the scheduler decides without having heard any
    news."""
    trial, counts = deepcopy(scheduler), dict[int, list[int]]()
    for step in range(steps):
        position = Position(step, steps, steps_per_epoch)
        of_phase = counts.setdefault(trial.phase(position).start, [0] * tasks)
        for visit in trial.visits(position):
            of_phase[visit.task] += visit.micro_batches
    return counts
