"""Entropy sampling: Pilault, Elhattami and Pal (CA-MTL), ICLR 2021, arXiv:2009.09139."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Candidates, Position, Scheduler, Visit


class Entropy(Scheduler):
    """Use a batch of every task as candidates and train on the rows with the most uncertain predictions, one batch in total.

    Of b x T candidates, the b with the largest ``U = S / (S_max log C)`` are selected: S is the entropy of the model's
    prediction, and S_max the largest mean entropy of a task. S_max is common to all rows, so the printed formula ranks by S
    / log C alone. The authors' code (`form: code`) multiplies that by the task's mean over the largest mean, which
    penalizes tasks with certain predictions twice.

    Scores have no entropy: each of their tasks gets b / T rows at random. The loss of a task is the mean over its selected
    rows. With training.micro_batches = n, n batches of every task are candidates, and n in total are selected. Shares and
    passes in the plan count candidates. A task with certain predictions, right or wrong, is hardly trained: monitor its dev
    loss.

    Differences from the authors' code:
      * predictions are made without dropout, which it leaves on;
      * it assigns another task's entropies to the rows of STS-B.
    """

    tasks_per_step = "several"
    chooses_rows = True
    cost = "a forward pass over a batch of every task per step"

    def __init__(
        self,
        run: RunFacts,
        *,
        form: Annotated[
            Literal["paper", "code"], Field(description="the printed formula, or that of the authors' code")
        ] = "paper",
    ) -> None:
        super().__init__(run)
        self.form = form

    def visits(self, position: Position) -> list[Visit]:
        """Return all tasks; their rows are candidates."""
        return [Visit(task, self.run.micro_batches) for task in range(len(self.run.tasks))]

    def choose(self, pool: Sequence[Candidates], position: Position) -> list[Tensor]:
        """Return the indices of each task's candidates among the most uncertain of all, in ascending order."""
        selected = [torch.empty(0, dtype=torch.int64) for _ in pool]
        # The mean, because the last batch of a pass can be smaller than the others.
        budget = round(sum(candidates.count for candidates in pool) / len(pool))
        # Seeded by the step, so that a resumed run selects the same rows.
        generator = self.run.generator(f"choose {position.step}")
        scored = [at for at, candidates in enumerate(pool) if candidates.uncertainty is None]
        for at in scored:
            # At least one row, so that no task with scores is left out of a small batch.
            share = max(1, min(pool[at].count, round(budget / len(pool))))
            selected[at] = torch.randperm(pool[at].count, generator=generator)[:share].sort().values
        classed = [at for at in range(len(pool)) if at not in scored]
        if classed:
            uncertain = self._weighted([u for u in (pool[at].uncertainty for at in classed) if u is not None])
            # The tasks with scores can use up a small budget; one row is left for the others.
            remaining = max(1, budget - sum(len(selected[at]) for at in scored))
            # A stable sort resolves ties by position. `topk` does not specify which of several equal values it returns.
            best = torch.cat(uncertain).sort(descending=True, stable=True).indices[:remaining]
            is_selected = torch.zeros(sum(map(len, uncertain)), dtype=torch.bool).index_fill(0, best, True)
            for at, flags in zip(classed, is_selected.split([len(values) for values in uncertain]), strict=True):
                selected[at] = flags.nonzero().flatten()
        return selected

    def _weighted(self, entropies: list[Tensor]) -> list[Tensor]:
        """Return U (n,) per task, up to the common factor 1 / S_max, from S / log C (n,)."""
        if self.form == "paper":
            return entropies
        # If the model is certain of everything, all rows tie and the first ones are selected.
        means = torch.stack([values.mean() for values in entropies])
        return [values * mean / means.max().clamp_min(1e-12) for values, mean in zip(entropies, means, strict=True)]

    def steps_per_epoch(self) -> int:
        """Return the steps in which all rows of the largest task are candidates once."""
        return -(-max(task.batches for task in self.run.tasks) // self.run.micro_batches)
