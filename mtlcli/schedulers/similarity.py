"""Similarity: Lin, Yang, Stoyanov and Ji, ACL 2018 (P18-1074), the mixing ratio of survey 3.4."""

from typing import Annotated

import torch
from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest, task_named


class Similarity(Scheduler):
    """Draws tasks by size and by likeness to a primary task: r_t = mu_t zeta_t n_t^(1/2).

    mu_t is 1 where t is the same kind of task as the primary one, zeta_t where it is in the same language; else both are
    `unlike`, 0.1 in the paper. By default only the primary is of its kind, and all are in one language.
    Raises MtlError for a task that the run does not have.
    """

    tasks_per_step = "draws"

    def __init__(
        self,
        run: RunFacts,
        *,
        primary: Annotated[str | None, Field(description="the task that matters; null: the first one")] = None,
        same_task: Annotated[
            list[str] | None, Field(description="tasks of the primary's kind (mu = 1); null: none but itself")
        ] = None,
        same_language: Annotated[
            list[str] | None, Field(description="tasks in the primary's language (zeta = 1); null: all")
        ] = None,
        unlike: Annotated[float, Field(gt=0, le=1, description="mu or zeta where kind or language differs")] = 0.1,
    ) -> None:
        super().__init__(run)
        first = 0 if primary is None else task_named(run, primary, "primary")
        kin = {first, *(task_named(run, name, "same_task") for name in same_task or [])}
        speakers = {first, *(task_named(run, name, "same_language") for name in same_language or [])}
        if same_language is None:
            speakers.update(range(len(run.tasks)))
        likeness = [(1 if t in kin else unlike) * (1 if t in speakers else unlike) for t in range(len(run.tasks))]
        ratio = torch.tensor(likeness, dtype=torch.float64) * power_of_sizes(run, 0.5)
        self.probabilities = ratio / ratio.sum()

    def visits(self, position: Position) -> list[Visit]:
        """The tasks drawn for this step."""
        return draw(self.run, self.probabilities, position)

    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is expected to be seen once."""
        return steps_for_largest(self.run, self.probabilities)
