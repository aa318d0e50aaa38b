"""Stages: survey 3.4 (pre-train then fine-tune, multi-task then single task); LB 4 and MMO 4 train so."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import nn

from mtlcli import registry
from mtlcli.errors import MtlError, suggest
from mtlcli.news import EpochNews, EvaluationNews, ProbeNews, StepNews
from mtlcli.plugin import RunFacts, Start, seed_for
from mtlcli.schedulers.base import Phase, Position, Probe, Scheduler, TasksPerStep, Visit, fewest_and_most


class Stage(BaseModel):
    """One phase of the run, as a recipe writes it."""

    model_config = ConfigDict(extra="forbid")

    tasks: list[str] | None = Field(None, description="the tasks it trains; by default all")
    scheduler: dict[str, Any] = Field(
        {"name": "round-robin"}, description="the scheduler among them, by name or with options"
    )
    epochs: int | None = Field(None, ge=1, description="epochs of that scheduler; by default 1")
    steps: int | None = Field(None, ge=1, description="its length in steps, instead of epochs")
    steps_per_epoch: int | None = Field(None, ge=1, description="by default what the scheduler says")
    lr_factor: float = Field(1.0, gt=0, description="multiplies every peak learning rate")
    freeze: list[str] = Field([], description="encoder, embeddings, layer.N, heads, or a task's name for its head")
    weights: Literal["last", "best"] = Field("last", description="which weights of the run so far it starts from")

    @field_validator("scheduler", mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_length(self) -> "Stage":
        if self.epochs is not None and self.steps is not None:
            raise ValueError("steps and epochs exclude each other; give one")
        if not isinstance(self.scheduler.get("name"), str):
            raise ValueError("scheduler: expected a name, or name: and options")
        return self


class Stages(Scheduler):
    """Trains in phases, each with its tasks, scheduler, length, learning rate and frozen parts.

    Every phase warms up and decays by itself, starts the optimizer's averages anew, and goes on from the `last` weights before
    it or from the `best` ones of the run so far (by training.select_by). The phases fix the length of the run: training.epochs
    is not read, and training.steps cuts the run short. A scheduler that chooses rows cannot be one of a phase.
    Raises MtlError for a task that the run does not have, and for a scheduler that refuses its options.
    """

    tasks_per_step: TasksPerStep = "all"
    cost = "that of each phase's own scheduler"

    def __init__(
        self,
        run: RunFacts,
        *,
        phases: Annotated[list[Stage], Field(min_length=1, description="the phases, in their order")],
    ) -> None:
        super().__init__(run)
        self.stages = [Stage.model_validate(phase) for phase in phases]
        self.members = [_members(run, number, stage) for number, stage in enumerate(self.stages)]
        self.inner = nn.ModuleList(
            _scheduler(run, number, stage, members)
            for number, (stage, members) in enumerate(zip(self.stages, self.members, strict=True))
        )
        self.per_epoch = [
            stage.steps_per_epoch or scheduler.steps_per_epoch()
            for stage, scheduler in zip(self.stages, self._schedulers(), strict=True)
        ]
        self.ends = [
            scheduler.epoch_ends(stage.epochs or 1, stage.steps, length)
            for stage, scheduler, length in zip(self.stages, self._schedulers(), self.per_epoch, strict=True)
        ]
        self.starts = [0, *accumulate(ends[-1] for ends in self.ends)]
        reach = [
            fewest_and_most(scheduler.tasks_per_step, len(members), run.micro_batches)
            for scheduler, members in zip(self._schedulers(), self.members, strict=True)
        ]
        if min(fewest for fewest, _ in reach) < len(run.tasks):
            self.tasks_per_step = "one" if max(most for _, most in reach) == 1 else "several"
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # steps done
        self.step: torch.Tensor

    def begin(self, start: Start) -> None:
        """Refuses frozen parts that the model does not have, and those that leave a task of the phase nothing to learn."""
        model = start.model
        for number, (stage, scheduler) in enumerate(zip(self.stages, self._schedulers(), strict=True)):
            try:
                model.freeze(tuple(stage.freeze))
            except MtlError as error:
                raise MtlError(*(f"scheduler.phases.{number}.{line}" for line in error.lines)) from error
            if idle := [model.names[task] for task in self.members[number] if not model.learns(task)]:
                raise MtlError(
                    f"scheduler.phases.{number}.freeze: leaves {', '.join(idle)} nothing that learns; freeze less, give it a "
                    "head that learns, or leave it out of the tasks of this phase"
                )
            scheduler.begin(start)
        start.model.freeze(())

    def visits(self, position: Position) -> list[Visit]:
        """What the phase's scheduler visits, among the phase's tasks."""
        number, local = self._local(position)
        members = self.members[number]
        return [replace(visit, task=members[visit.task]) for visit in self._at(number).visits(local)]

    def steps_per_epoch(self) -> int:
        """Those of the first phase; `epoch_ends` knows them all."""
        return self.per_epoch[0]

    def epoch_ends(self, epochs: int, steps: int | None, steps_per_epoch: int) -> list[int]:
        """The epochs of all phases one after the other, up to `steps` where it is given."""
        found = [start + end for start, ends in zip(self.starts, self.ends, strict=False) for end in ends]
        if steps is None or steps >= found[-1]:
            return found
        return [*(end for end in found if end < steps), steps]

    def phase(self, position: Position) -> Phase:
        """The phase a step belongs to, with the rate its own scheduler asks for."""
        number, local = self._local(position)
        stage, inner = self.stages[number], self._at(number).phase(local)
        return Phase(
            self.starts[number], self.ends[number][-1], stage.lr_factor * inner.lr, tuple(stage.freeze), stage.weights
        )

    def probe(self, position: Position) -> Probe | None:
        """What the phase's scheduler asks for."""
        number, local = self._local(position)
        found = self._at(number).probe(local)
        return found and replace(found, tasks=tuple(self.members[number][task] for task in found.tasks))

    def on_step(self, news: StepNews) -> None:
        """Passed on to the phase's scheduler, in its own counting of steps and tasks."""
        self.step.fill_(news.step)
        number = self._number(news.step - 1)
        index = torch.tensor([self.members[number].index(task) for task in news.tasks.tolist()])
        self._at(number).on_step(replace(news, step=news.step - self.starts[number], tasks=index))

    def on_epoch(self, news: EpochNews) -> None:
        """Likewise."""
        number = self._number(int(self.step) - 1)
        before = sum(len(ends) for ends in self.ends[:number])
        losses = dict(self._own(number, news.losses))
        self._at(number).on_epoch(EpochNews(news.epoch - before, losses))

    def on_evaluation(self, news: EvaluationNews) -> None:
        """Likewise, with what was measured of the phase's tasks."""
        number = self._number(int(self.step) - 1)
        losses, metrics = dict(self._own(number, news.losses)), dict(self._own(number, news.metrics))
        self._at(number).on_evaluation(EvaluationNews(news.step - self.starts[number], losses, metrics))

    def on_probe(self, news: ProbeNews) -> None:
        """Likewise."""
        number = self._number(news.step - 1)
        losses = dict(self._own(number, news.losses))
        self._at(number).on_probe(ProbeNews(news.step - self.starts[number], losses))

    def _own(self, number: int, found: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        return ((local, found[task]) for local, task in enumerate(self.members[number]) if task in found)

    def _number(self, step: int) -> int:
        return min(max(bisect_right(self.starts, step) - 1, 0), len(self.stages) - 1)

    def _local(self, position: Position) -> tuple[int, Position]:
        number = self._number(position.step)
        step = position.step - self.starts[number]
        return number, Position(step, self.ends[number][-1], self.per_epoch[number])

    def _at(self, number: int) -> Scheduler:
        found = self.inner[number]
        if not isinstance(found, Scheduler):
            raise TypeError(f"{found} is not a Scheduler")
        return found

    def _schedulers(self) -> Iterator[Scheduler]:
        return (self._at(number) for number in range(len(self.stages)))


def _members(run: RunFacts, number: int, stage: Stage) -> list[int]:
    """Indices of the phase's tasks, in the order of the run."""
    names = [task.name for task in run.tasks]
    chosen = names if stage.tasks is None else stage.tasks
    for name in chosen:
        if name not in names:
            raise MtlError(f'scheduler.phases.{number}.tasks: no task "{name}"{suggest(name, names)}')
    if not chosen:
        raise MtlError(f"scheduler.phases.{number}.tasks: found none; expected one or more of {', '.join(names)}")
    return [index for index, name in enumerate(names) if name in chosen]


def _scheduler(run: RunFacts, number: int, stage: Stage, members: list[int]) -> Scheduler:
    """The phase's own scheduler, for its tasks alone."""
    name = stage.scheduler["name"]
    options = {key: value for key, value in stage.scheduler.items() if key != "name"}
    where = f"scheduler.phases.{number}.scheduler"
    plugin, checked, wrong = registry.check_options("schedulers", name, options, where)
    if wrong:
        raise MtlError(*(f"{where}.{option}: {message}" for option, message in wrong))
    if Stages in plugin.__mro__:
        raise MtlError(f"{where}: a phase has no phases of its own; list them one after the other")
    facts = RunFacts(
        tuple(run.tasks[index] for index in members), seed_for(run.seed, "phase", number), run.micro_batches
    )
    made = plugin(facts, **checked)
    if not isinstance(made, Scheduler):
        raise TypeError(f"{name} is not a Scheduler")
    if made.chooses_rows:
        raise MtlError(f'{where}: "{name}" chooses rows, which a phase cannot; give it the whole run')
    return made
