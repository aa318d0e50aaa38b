"""AdapterFusion: Pfeiffer et al., EACL 2021, arXiv 2005.00247."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.adapters import Adapters
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, Part
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.modular import Outputs, PlaceInputs
from mtlcli.architectures.modules import normal_linear
from mtlcli.architectures.options import Backbone, Norms, Rate
from mtlcli.errors import MtlError


class Fusion(nn.Module):
    """Attend from a state x over the changes z_n of several adapters: ``sum_n a_n W_v z_n``, ``a = softmax_n((W_q x) . (W_k z_n))``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = normal_linear(dim, dim), normal_linear(dim, dim)
        self.value = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.value.weight)

    def forward(self, states: Tensor, changes: Tensor) -> Tensor:
        """Return the fused change (..., dim) of states (..., dim) from changes (..., adapters, dim)."""
        # Unlike attention in a Transformer, the scores are not divided by sqrt(d).
        scores = (self.query(states).unsqueeze(-2) * self.key(changes)).sum(-1)
        weights = scores.float().softmax(-1).to(changes.dtype)
        # The map of the sum is the sum of the maps, at a fraction of the cost.
        fused: Tensor = self.value((weights.unsqueeze(-1) * changes).sum(-2))
        return fused

    def distance(self) -> Tensor:
        """Return ``||W_v - I||_F^2``."""
        return (self.value.weight - torch.eye(len(self.value.weight), device=self.value.weight.device)).square().sum()


class AdapterFusion(Adapters):
    """Let every task attend to the adapters of all tasks, in every layer of a frozen encoder.

    With x what the task's adapter would read and ``z_n = U_n phi(D_n x + b_n) + c_n`` the change of each task's adapter (form pfeiffer):
    ``o = sum_n a_n W_v z_n`` with ``a = softmax_n((W_q x + b_q) . (W_k z_n + b_k))``, and o in place of the adapter's change
    (section 3.2). W_v starts as the identity, and ``regularization * sum ||W_v - I||^2`` keeps it near. Before step 1 of the adapters
    every hidden state is the encoder's.

    As in the paper, train the adapters first and fuse them in a second run: `--init RUN` with `adapters: frozen`. With `adapters: trained`
    both learn together, and adapters are shared by all tasks.

    Parameters of a task: N (3 d^2 + 2 d) for N layers, beside its adapter: more than the adapters.

    Differences from the paper: no dropout of the attention's scores. Learning rates are those of the AdapterHub library.
    """

    loads_from: ClassVar[tuple[str, ...]] = ("adapters",)

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        adapters: Annotated[
            Literal["trained", "frozen"],
            Field(description="whether the adapters learn too, or come trained from --init"),
        ] = "trained",
        width: Annotated[
            int | None, Field(ge=1, description="width of the adapters; by default that of the encoder / 16")
        ] = None,
        activation: Annotated[
            Literal["relu", "gelu", "swish", "tanh"], Field(description="activation in the adapters")
        ] = "relu",
        regularization: Annotated[float, Field(ge=0, description="weight of the pull of W_v to the identity")] = 0.01,
        backbone: Backbone = "frozen",
        norms: Norms = "frozen",
        adapter_lr: Rate = 1e-4,
        lr: Rate = 5e-5,
    ) -> None:
        super().__init__(facts, width=width, activation=activation, backbone=backbone, norms=norms, lr=adapter_lr)
        self.fusion_lr, self.regularization, self.adapters = lr, regularization, adapters
        self.fusions = facts.task_modules("fusion", lambda _: nn.ModuleList(Fusion(facts.width) for _ in self.layers))
        # In the constructor, because the model records which parameters are trainable when it is built.
        if adapters == "frozen" and self.tasks is not None:
            self.tasks.requires_grad_(False)

    def start(self, tensors_of: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Check that frozen adapters are trained ones. Raise MtlError where they are not."""
        adapters: Any = self.tasks
        untrained = [
            name
            for index, name in enumerate(adapters.tasks)
            # U starts at zero, and all weights of zero mean that no step has changed it.
            if not any(bool(bottleneck.up.weight.any()) for bottleneck in adapters.of(index)["ffn_out"])
        ]
        if self.adapters == "frozen" and untrained:
            raise MtlError(
                f"architecture.adapters: found frozen, but the adapters of {', '.join(untrained)} are untrained; start from a run of "
                "adapters (--init RUN), or set architecture.adapters=trained"
            )

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the hidden states of the encoder with fused adapters, and the pull of W_v in training."""
        hidden = super().states(task, inputs)
        if not self.training or not self.regularization:
            return hidden
        # One number for the batch, given to every text, because the engine takes the mean of `extra` over texts.
        pull = self.regularization * torch.stack([fusion.distance() for fusion in self.fusions.of(task)]).sum()
        return HiddenStates(hidden.last, hidden.layers, pull.expand(len(hidden.last)))

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the fused adapters as changes of outputs."""
        adapters: Any = self.tasks
        fusions = self.fusions.of(task)

        def fused(depth: int, states: Tensor) -> Tensor:
            changes = [adapters.of(index)["ffn_out"][depth](states) for index in range(len(adapters.tasks))]
            change: Tensor = fusions[depth](states, torch.stack(changes, dim=-2))
            return change

        def block(call: Call, output: Tensor) -> Tensor:
            # A pre-norm layer: the block's output is u, and there is no norm to run again.
            return output + fused(call.depth, output)

        def norm(call: Call, output: Tensor) -> Tensor:
            result: Tensor = call.module.forward(call.given + fused(call.depth, output))
            return result

        return ({"block": block} if self.layers[0].last_norm is None else {"last_norm": norm}), {}

    def parts(self) -> dict[str, Part]:
        """Return one part per task, its fusion; all tasks read the adapters."""
        # The base gives each adapter to its task alone, but here every task reads all of them.
        parts = {name: part for name, part in super().parts().items() if not name.startswith("tasks.")}
        return parts | {"tasks": Part(lr=self.lr)} | self.fusions.parts("fusions", lr=self.fusion_lr)

    @classmethod
    def compares(cls, options: Mapping[str, Any]) -> bool:
        """Return whether adapters, norms or the encoder are trained."""
        return super().compares(options) or options.get("adapters", "trained") == "trained"
