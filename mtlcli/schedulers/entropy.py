"""Entropy sampling: Pilault, Elhattami and Pal (CA-MTL), ICLR 2021, arXiv:2009.09139; survey 3.4."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.schedulers.base import Candidates, Position, Scheduler, Visit


class Entropy(Scheduler):
    """Takes a batch of every task as candidates and trains on the rows the model is least sure of, one batch in all.

    Of b x T candidates the b with the largest U = S / (S_max log C) are kept: S the entropy of the model's prediction, S_max
    the largest mean entropy of a task. S_max is common to all rows, so the printed formula ranks by S / log C alone; the
    authors' code (`form: code`) multiplies that by the task's mean over the largest one, which damps tasks the model is sure
    of twice. Predictions are made without dropout, which the code leaves on. Scores have no entropy: each such task keeps its
    share b / T, drawn at random (the code lends STS-B the entropies of another task). The loss of a task is the mean over its
    own kept rows, as in the code. Shares and passes in the plan are those of the candidates. With training.micro_batches = n,
    n batches of every task are candidates and n in all are kept. A task of which the model is sure, rightly or not, is
    hardly trained: watch its dev loss.
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
        """All tasks: their rows are candidates."""
        return [Visit(task, self.run.micro_batches) for task in range(len(self.run.tasks))]

    def choose(self, pool: Sequence[Candidates], position: Position) -> list[Tensor]:
        """Of each task's candidates those among the most uncertain of all, in their order."""
        kept = [torch.empty(0, dtype=torch.int64) for _ in pool]
        keep = round(sum(one.count for one in pool) / len(pool))
        generator = self.run.generator(f"choose {position.step}")
        scored = [at for at, one in enumerate(pool) if one.probabilities is None]
        for at in scored:
            share = max(1, min(pool[at].count, round(keep / len(pool))))
            kept[at] = torch.randperm(pool[at].count, generator=generator)[:share].sort().values
        classed = [at for at in range(len(pool)) if at not in scored]
        if classed:
            uncertain = self._uncertainties([p for p in (pool[at].probabilities for at in classed) if p is not None])
            left = max(1, keep - sum(len(kept[at]) for at in scored))
            best = torch.cat(uncertain).sort(descending=True, stable=True).indices[:left]
            chosen = torch.zeros(sum(map(len, uncertain)), dtype=torch.bool).index_fill(0, best, True)
            for at, mine in zip(classed, chosen.split([len(one) for one in uncertain]), strict=True):
                kept[at] = mine.nonzero().flatten()
        return kept

    def _uncertainties(self, probabilities: list[Tensor]) -> list[Tensor]:
        """probabilities (n, classes) of each task -> U (n,) but for the common factor 1 / S_max."""
        entropies = [torch.special.entr(p.double()).sum(1) / math.log(max(2, p.shape[1])) for p in probabilities]
        if self.form == "paper":
            return entropies
        means = torch.stack([one.mean() for one in entropies])
        return [one * mean / means.max().clamp_min(1e-12) for one, mean in zip(entropies, means, strict=True)]

    def steps_per_epoch(self) -> int:
        """Steps in which all rows of the largest task have been candidates once."""
        return -(-max(task.batches for task in self.run.tasks) // self.run.micro_batches)
