"""L2-SP: Li, Grandvalet, Davoine, ICML 2018, arXiv:1802.01483, section 3."""

from typing import Annotated

from pydantic import Field

from mtlcli.facts import RunFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.plugin import SetupContext
from mtlcli.regularizers.base import Regularizer
from mtlcli.regularizers.snapshot import Snapshot, pull


class L2SP(Regularizer):
    """Pull the encoder to its initial weights and all new parameters to zero, so that pre-trained knowledge is not lost.

    The penalty is ``alpha/2 ||w - w0||^2`` over the encoder and ``beta/2 ||w||^2`` over heads and other modules, biases
    included as in the paper. ``alpha (w - w0)`` and ``beta w`` are added to the combined gradient, before clipping, of
    every parameter that the step's tasks use. It replaces weight decay, which pulls the encoder to zero: set
    optimizer.weight_decay to 0.

    Differences from the paper: it selects alpha and beta on validation data; the defaults are choices made here.
    """

    cost = "a copy of the encoder's weights"

    def __init__(
        self,
        run: RunFacts,
        *,
        alpha: Annotated[
            float, Field(ge=0, description="strength of the pull of the encoder to its initial weights")
        ] = 0.1,
        beta: Annotated[float, Field(ge=0, description="strength of the pull of all other parameters to zero")] = 0.01,
    ) -> None:
        super().__init__(run)
        self.alpha, self.beta = alpha, beta

    def setup(self, context: SetupContext) -> None:
        """Copy the initial weights of every encoder."""
        # By identity, because some architectures have several encoders.
        encoder = {id(p) for module in context.model.architecture.encoders() for p in module.parameters()}
        # The copies are part of a checkpoint: the model of a resumed run no longer has its initial weights.
        self.initial = Snapshot((name, p) for name, p in context.model.named_parameters() if id(p) in encoder)

    def after_backward(self, model: MultiTaskModel) -> None:
        """Add both pulls to the gradient."""
        pull(self.initial.pairs(model), self.alpha)
        initial = self.initial.tensors()
        # New parameters have no initial knowledge to keep, so their anchor is zero.
        # A scalar 0 broadcasts, so the anchors need no memory.
        pull(((p, p.new_zeros(())) for name, p in model.named_parameters() if name not in initial), self.beta)
