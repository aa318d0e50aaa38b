"""Domain-adversarial training of neural networks (DANN): Ganin et al., JMLR 2016, arXiv 1505.07818."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from mtlcli.architectures.adversary import Adversarial, Gate, Hidden, Schedule
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs
from mtlcli.architectures.hierarchy import check_names
from mtlcli.architectures.options import RateOfHeads
from mtlcli.errors import MtlError
from mtlcli.tasks.targets import Target


class DomainAdversarial(Adversarial):
    """Share features from which a discriminator cannot tell the domain of a text.

    With s the mean of H^N over the tokens of a text of domain k: ``L_domain = - log softmax(D(R(s)))_k``, where R is the identity
    whose gradient is multiplied by ``-weight lambda``. Each task of a domain minimizes its loss plus L_domain;
    a task without labels (`kind: unlabeled`) minimizes L_domain alone, as the texts of the target domain do in the paper. Tasks in no
    domain are left as they are. Heads read H^N. With `gate: 0.9` the reversed gradient reaches the encoder only in batches where L_domain
    is above 0.9 ln(K), see `adversarial`.

    Parameters: ``h (d + 1) + K (h + 1)`` for K domains and a hidden layer of width h, else ``K (d + 1)``.

    Differences from the paper: two domains have two outputs and a softmax in place of one output and a sigmoid, which is the same
    model; the learning rate follows the schedule of the run; domains are those of tasks, not of rows.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        domains: Annotated[
            dict[str, list[str]],
            Field(
                description="the tasks of each domain, such as {films: [sst], shops: [reviews]}; the default is one for each task"
            ),
        ] = {},  # noqa: B006
        weight: Annotated[float, Field(ge=0, description="factor of the reversed gradient, times lambda")] = 1.0,
        schedule: Schedule = "rising",
        hidden: Hidden = 100,
        gate: Gate = None,
        lr: RateOfHeads = None,
    ) -> None:
        self.check_tasks({"domains": domains}, facts.readable_targets)
        numbers = {name: number for number, tasks in enumerate(domains.values()) for name in tasks}
        classes = [numbers.get(name) if domains else task for task, name in enumerate(facts.names)]
        super().__init__(facts, classes, hidden=hidden, schedule=schedule, lr=lr, gate=gate)
        self.weight = weight

    @classmethod
    def check_tasks(cls, options: Mapping[str, Any], readable: Mapping[str, Target | None]) -> None:
        """Check `domains`: two or more, each task in at most one."""
        domains: Mapping[str, list[str]] = options.get("domains", {})
        check_names([name for tasks in domains.values() for name in tasks], list(readable), "domains")
        if domains and (len(domains) < 2 or not all(domains.values())):
            raise MtlError("architecture.domains: expected two or more domains, each with one or more tasks")

    def merged(self, task: int | None) -> nn.Module:
        """Return the encoder, whose states are the features of all tasks."""
        return self.encoder

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the states, in training with the discriminator's loss of each text."""
        if not self.training or self.classes[task] is None:
            return hidden
        # The weight acts on the reversed gradient alone, so that the discriminator trains at its full rate.
        extra = self.adversarial_loss(task, hidden.last, inputs, self.weight * self.strength)
        return HiddenStates(hidden.last, hidden.layers, extra)
