"""Similarity: Lin, Yang, Stoyanov and Ji, ACL 2018, P18-1074."""

from typing import Annotated

import torch
from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Position, Scheduler, Visit, draw, power_of_sizes, steps_for_largest, task_named


class Similarity(Scheduler):
    """Draw tasks by size and by similarity to a primary task, r_t = mu_t zeta_t n_t^(1/2).

    mu_t is 1 if t is of the same type as the primary task, and zeta_t is 1 if it is in the same language; otherwise each is
    `unlike`, 0.1 in the paper. By default only the primary task is of its type, and all tasks are in one language.

    Raises MtlError for a task that the run does not have.
    """

    tasks_per_step = "draws"

    def __init__(
        self,
        run: RunFacts,
        *,
        primary: Annotated[str | None, Field(description="task to compare with; null: the first one")] = None,
        same_task: Annotated[
            list[str] | None, Field(description="tasks of the primary's type (mu = 1); null: itself alone")
        ] = None,
        same_language: Annotated[
            list[str] | None, Field(description="tasks in the primary's language (zeta = 1); null: all")
        ] = None,
        unlike: Annotated[float, Field(gt=0, le=1, description="mu or zeta if type or language differs")] = 0.1,
    ) -> None:
        super().__init__(run)
        first = 0 if primary is None else task_named(run, primary, "primary")
        kin = {first, *(task_named(run, name, "same_task") for name in same_task or [])}
        speakers = {first, *(task_named(run, name, "same_language") for name in same_language or [])}
        if same_language is None:
            # Without information about languages, all tasks count as being in one.
            speakers.update(range(len(run.tasks)))
        likeness = [(1 if t in kin else unlike) * (1 if t in speakers else unlike) for t in range(len(run.tasks))]
        # `power_of_sizes` is normalized, but the constant cancels in the next line.
        ratio = torch.tensor(likeness, dtype=torch.float64) * power_of_sizes(run, 0.5)
        self.probabilities = ratio / ratio.sum()

    def visits(self, position: Position) -> list[Visit]:
        """Return the tasks drawn for this step."""
        return draw(self.run, self.probabilities, position)

    def steps_per_epoch(self) -> int:
        """Return the steps in which the largest task is expected to be seen once."""
        return steps_for_largest(self.run, self.probabilities)
