"""L2-SP: Li, Grandvalet, Davoine, ICML 2018, arXiv:1802.01483, section 3."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.plugin import SetupContext
from mtlcli.regularizers.base import Regularizer
from mtlcli.regularizers.snapshot import Snapshot, pull


class L2SP(Regularizer):
    """Pulls the encoder to its first weights and everything new to zero, so that what was pre-trained is not lost.

    The penalty is alpha/2 ||w - w0||^2 over the encoder and beta/2 ||w||^2 over heads and whatever else an architecture adds,
    biases included as in the paper; alpha (w - w0) and beta w are added to the combined gradient, before clipping, for every
    parameter that the step's tasks use. It takes the place of weight decay, which pulls the encoder to zero: set
    optimizer.weight_decay to 0. The defaults are a
    choice of ours; the paper chooses them on validation data.
    """

    cost = "a copy of the encoder's weights"

    def __init__(
        self,
        run: RunFacts,
        *,
        alpha: Annotated[float, Field(ge=0, description="pull of the encoder to its first weights")] = 0.1,
        beta: Annotated[float, Field(ge=0, description="pull of everything else to zero")] = 0.01,
    ) -> None:
        super().__init__(run)
        self.alpha, self.beta = alpha, beta

    def setup(self, start: SetupContext) -> None:
        """Keeps the first weights of every encoder."""
        architecture = start.model.architecture
        encoder = {id(p) for task in range(len(self.run.tasks)) for p in architecture.encoder_of(task).parameters()}
        self.first = Snapshot((name, p) for name, p in start.model.named_parameters() if id(p) in encoder)

    def after_backward(self, model: MultiTaskModel) -> None:
        """Adds both pulls."""
        pull(self.first.pairs(model), self.alpha)
        first = self.first.tensors()
        pull(((p, p.new_zeros(())) for name, p in model.named_parameters() if name not in first), self.beta)
