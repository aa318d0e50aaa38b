"""Interactive architecture: He et al. (IMN), ACL 2019, arXiv 1906.06906."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, Part
from mtlcli.architectures.hierarchy import Hierarchical, Order, check_order, per_token
from mtlcli.architectures.modules import zero_linear
from mtlcli.architectures.options import RateOfHeads
from mtlcli.tasks.targets import Target


class Interactive(Hierarchical):
    """Let all tasks predict, feed the predictions back into the shared states, and let them predict again.

    ``h^0 = H^N``; with y_s what the head of task s predicts from h^i (probabilities, or a score in standard deviations; for each token
    if s tags words, else the same for every token):

    * ``residual``: ``h^{i+1} = h^i + W [h^i; y_1; ...; y_T] + b``, where W and b start at 0, so that the states are the encoder's;
    * ``imn``: ``h^{i+1} = relu(W [h^i; y_1; ...; y_T] + b)`` (the paper, second hand), which replaces the states of a
      pretrained encoder by those of a random layer.

    One W serves all rounds, and only the predictions from the last round enter the loss. With 0 rounds this is hard sharing. Every
    task reads the last states; tasks outside `order` do not feed theirs back. The loss of each task trains the heads of all in `order`.

    Parameters: ``d (d + sum_s C_s) + d``.

    Differences from the paper: no attention weights are fed back, since texts are pooled without attention; no opinion attention, and no
    gold labels in place of predictions in early epochs.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        rounds: Annotated[int, Field(ge=0, le=10, description="how often predictions are fed back")] = 2,
        order: Order = None,
        form: Annotated[
            Literal["residual", "imn"],
            Field(description="whether a round adds to the states, or replaces them as in the paper"),
        ] = "residual",
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__(facts, order, detach=False, lr=lr)
        self.check_tasks({"order": order}, facts.readable_targets)
        self.rounds, self.form = rounds, form
        # Tasks whose head cannot run on other texts have size 0.
        fed_back = tuple(s for s in self.order if self.sizes[s]) if rounds else ()
        # The same for every task, itself included: no task is above another one.
        self.lower = (fed_back,) * len(facts.tasks)
        size = facts.width + sum(self.sizes[s] for s in fed_back)
        self.update: nn.Linear | None = None
        if fed_back:
            self.update = zero_linear(size, facts.width) if form == "residual" else nn.Linear(size, facts.width)

    @classmethod
    def check_tasks(cls, options: Mapping[str, Any], readable: Mapping[str, Target | None]) -> None:
        """Check `order`: all its tasks are read."""
        check_order(options.get("order"), readable, top=False)

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the states after the last round, the same for every task."""
        if self.update is None:
            return hidden
        for _ in range(self.rounds):
            state = hidden.last
            fed_back = [per_token(self.predicted(s, hidden, inputs), state) for s in self.lower[task]]
            update = self.update(torch.cat([state, *fed_back], dim=-1))
            # Heads run again on the new states; after the last round, the model runs them for the loss.
            hidden = hidden.with_last(state + update if self.form == "residual" else torch.relu(update))
        return hidden

    def parts(self) -> dict[str, Part]:
        """Return the update, shared by all tasks, with its learning rate."""
        return {} if self.update is None else {"update": Part(lr=self.lr)}

    def notes(self) -> list[str]:
        """Return whose predictions are fed back."""
        names = ", ".join(self.names[s] for s in self.lower[0])
        return [
            f"the predictions of {names} are fed back in {self.rounds} rounds"
            if names
            else "no predictions are fed back"
        ]
