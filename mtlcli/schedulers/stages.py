"""Stages: Chen, Zhang and Yang (Multi-Task Learning in Natural Language Processing: An Overview), 2024, section 3.4."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from torch import nn

from mtlcli.config.schema import SchedulerChoice
from mtlcli.errors import MtlError, suggest
from mtlcli.facts import RunFacts, seed_for
from mtlcli.plugin import EpochResult, EvaluationResult, ProbeResult, SetupContext, StepResult
from mtlcli.registry import FAMILIES
from mtlcli.schedulers.base import Position, Probe, Scheduler, Stage, TasksPerStep, Visit, fewest_and_most


class StageConfig(BaseModel):
    """One stage of the run, as a recipe writes it."""

    model_config = ConfigDict(extra="forbid")

    tasks: list[str] | None = Field(None, description="tasks to train; by default all")
    scheduler: Annotated[dict[str, Any], WithJsonSchema({"type": ["string", "object"]})] = Field(
        {"name": FAMILIES["schedulers"].default}, description="scheduler of these tasks, by name or with options"
    )
    epochs: int | None = Field(None, ge=1, description="epochs of that scheduler; by default 1")
    steps: int | None = Field(None, ge=1, description="length in steps, instead of epochs")
    steps_per_epoch: int | None = Field(None, ge=1, description="by default the scheduler's")
    lr_factor: float = Field(1.0, gt=0, description="multiplies every peak learning rate")
    freeze: list[str] = Field(
        [],
        description="encoder, embeddings, layer.N, architecture (all before the heads) or one of its modules, heads, or a task's name "
        "for its head",
    )
    weights: Literal["last", "best"] = Field("last", description="weights of the run so far to start from")

    @field_validator("scheduler", mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_length(self) -> "StageConfig":
        if self.epochs is not None and self.steps is not None:
            raise ValueError("steps and epochs exclude each other; give one")
        if not isinstance(self.scheduler.get("name"), str):
            raise ValueError("scheduler: expected a name, or name: and options")
        return self


class Stages(Scheduler):
    """Train in stages, each with separate tasks, scheduler, length, learning rate and frozen parts.

    Every stage has a separate warmup and decay, resets the optimizer's averages, and starts from the `last` weights before
    it or from the `best` ones of the run so far (by training.select_by). The stages determine the length of the run:
    training.epochs is ignored, and training.steps shortens the run. Stages cannot use a scheduler that chooses rows.

    Lozano and Bravo (Exploring Multi-Task Learning for Robust Language Encoding with BERT, 2023, section 4) and Mgbahurike,
    Mlauzi and Ocran (Jack of All Trades, Master of Some, 2024, section 4) train in stages.

    Raises MtlError for a task that the run does not have, and for a scheduler that rejects its options.
    """

    tasks_per_step: TasksPerStep = "all"
    cost = "that of the stages' schedulers"

    def __init__(
        self,
        run: RunFacts,
        *,
        stages: Annotated[list[StageConfig], Field(min_length=1, description="the stages, in their order")],
    ) -> None:
        super().__init__(run)
        self.stages = [StageConfig.model_validate(stage) for stage in stages]
        self.members = [_members(run, number, stage) for number, stage in enumerate(self.stages)]
        # As submodules, so that a checkpoint holds the state of every stage's scheduler.
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
        # Methods that compare tasks reject schedules whose steps hold a single task.
        if min(fewest for fewest, _ in reach) < len(run.tasks):
            self.tasks_per_step = "one" if max(most for _, most in reach) == 1 else "several"
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # steps done
        self.step: torch.Tensor

    def setup(self, context: SetupContext) -> None:
        """Set up the stages' schedulers.

        Raises MtlError for frozen parts that the model does not have, or that leave a task of the stage without trainable
        parameters.
        """
        model = context.model
        for number, (stage, scheduler) in enumerate(zip(self.stages, self._schedulers(), strict=True)):
            try:
                # Tried for every stage before step 1, so that a wrong name does not end the run at a later stage.
                model.freeze(tuple(stage.freeze))
            except MtlError as error:
                raise MtlError(*(f"scheduler.stages.{number}.{line}" for line in error.lines)) from error
            if idle := [model.names[task] for task in self.members[number] if not model.is_trainable(task)]:
                raise MtlError(
                    f"scheduler.stages.{number}.freeze: no trainable parameter affects the loss of {', '.join(idle)}; freeze less, "
                    "use a head with parameters, or remove the task from this stage"
                )
            scheduler.setup(context)
        # `enter_stage` freezes the parts of each stage when it begins.
        model.freeze(())

    def visits(self, position: Position) -> list[Visit]:
        """Return the visits of the stage's scheduler, with the indices of the run's tasks."""
        number, local = self._local(position)
        members = self.members[number]
        return [replace(visit, task=members[visit.task]) for visit in self._at(number).visits(local)]

    def steps_per_epoch(self) -> int:
        """Return those of the first stage; `epoch_ends` accounts for all."""
        return self.per_epoch[0]

    def epoch_ends(self, epochs: int, steps: int | None, steps_per_epoch: int) -> list[int]:
        """Return the ends of all stages' epochs, up to `steps` if it is set."""
        # `starts` has one more entry than `ends`: the end of the run.
        all_ends = [start + end for start, ends in zip(self.starts, self.ends, strict=False) for end in ends]
        if steps is None or steps >= all_ends[-1]:
            return all_ends
        return [*(end for end in all_ends if end < steps), steps]

    def stage(self, position: Position) -> Stage:
        """Return the stage of a step, with the rate of its scheduler."""
        number, local = self._local(position)
        stage, inner = self.stages[number], self._at(number).stage(local)
        # A scheduler such as the state machine lowers the rate within its stage.
        return Stage(
            self.starts[number], self.ends[number][-1], stage.lr_factor * inner.lr, tuple(stage.freeze), stage.weights
        )

    def probe(self, position: Position) -> Probe | None:
        """Return the probe of the stage's scheduler."""
        number, local = self._local(position)
        probe = self._at(number).probe(local)
        return probe and replace(probe, tasks=tuple(self.members[number][task] for task in probe.tasks))

    def on_step(self, result: StepResult) -> None:
        """Forward to the stage's scheduler, with steps and tasks counted within the stage."""
        self.step.fill_(result.step)
        # Updates count from 1, so this one was made at the position before its number.
        number = self._number(result.step - 1)
        index = torch.tensor([self.members[number].index(task) for task in result.tasks.tolist()])
        self._at(number).on_step(replace(result, step=result.step - self.starts[number], tasks=index))

    def on_epoch(self, result: EpochResult) -> None:
        """Forward the losses of the stage's tasks."""
        number = self._number(int(self.step) - 1)
        # Hooks count epochs over the entire run.
        before = sum(len(ends) for ends in self.ends[:number])
        losses = dict(self._of_stage(number, result.losses))
        self._at(number).on_epoch(EpochResult(result.epoch - before, losses))

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Forward the results of the stage's tasks."""
        number = self._number(int(self.step) - 1)
        losses, metrics = dict(self._of_stage(number, result.losses)), dict(self._of_stage(number, result.metrics))
        self._at(number).on_evaluation(EvaluationResult(result.step - self.starts[number], losses, metrics))

    def on_probe(self, result: ProbeResult) -> None:
        """Forward the losses of the stage's tasks."""
        number = self._number(result.step - 1)
        losses = dict(self._of_stage(number, result.losses))
        self._at(number).on_probe(ProbeResult(result.step - self.starts[number], losses))

    def _of_stage(self, number: int, values: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        return ((local, values[task]) for local, task in enumerate(self.members[number]) if task in values)

    def _number(self, step: int) -> int:
        # Step -1, of a hook before the first step, belongs to the first stage, and the end of the run to the last one.
        return min(max(bisect_right(self.starts, step) - 1, 0), len(self.stages) - 1)

    def _local(self, position: Position) -> tuple[int, Position]:
        number = self._number(position.step)
        # Schedulers see their stage as the entire run.
        step = position.step - self.starts[number]
        return number, Position(step, self.ends[number][-1], self.per_epoch[number])

    def _at(self, number: int) -> Scheduler:
        scheduler = self.inner[number]
        # For the type checker: the members of a ModuleList are of type Module.
        if not isinstance(scheduler, Scheduler):
            raise TypeError(f"{scheduler} is not a Scheduler")
        return scheduler

    def _schedulers(self) -> Iterator[Scheduler]:
        return (self._at(number) for number in range(len(self.stages)))


def _members(run: RunFacts, number: int, stage: StageConfig) -> list[int]:
    """Return the indices of the stage's tasks, in the order of the run."""
    names = [task.name for task in run.tasks]
    members = names if stage.tasks is None else stage.tasks
    for name in members:
        if name not in names:
            raise MtlError(f'scheduler.stages.{number}.tasks: no task "{name}"{suggest(name, names)}')
    if not members:
        raise MtlError(f"scheduler.stages.{number}.tasks: found none; expected one or more of {', '.join(names)}")
    # In the order of the run, so that local indices do not depend on the order in the recipe.
    return [index for index, name in enumerate(names) if name in members]


def _scheduler(run: RunFacts, number: int, stage: StageConfig, members: list[int]) -> Scheduler:
    """Build the stage's scheduler for its tasks."""
    choice = SchedulerChoice.model_validate(stage.scheduler)
    key = f"scheduler.stages.{number}.scheduler"
    if problems := choice.check(key):
        raise MtlError(*(f"{key}.{option}: {message}" for option, message in problems))
    if Stages in choice.plugin.__mro__:
        raise MtlError(f"{key}: stages cannot be nested; list them one after another")
    # A separate seed per stage, so that two stages with the same scheduler draw differently.
    facts = RunFacts(
        tuple(run.tasks[index] for index in members), seed_for(run.seed, "stage", number), run.micro_batches
    )
    scheduler: Scheduler = choice.make(facts)
    if scheduler.chooses_rows:
        raise MtlError(f'{key}: "{choice.name}" chooses rows, which stages do not support; use it for the entire run')
    return scheduler
