"""Supervision at several levels: Sogaard and Goldberg, ACL 2016, P16-2038; scalar mixtures: Peters et al., NAACL 2018, arXiv 1802.05365."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.architectures.hierarchy import check_names
from mtlcli.architectures.layers import trace_layers
from mtlcli.architectures.modules import zero_linear
from mtlcli.errors import MtlError
from mtlcli.tasks.targets import Target


class Level(nn.Module):
    """Read one hidden layer, or a mixture ``g sum_k softmax(w)_k H^k`` of all, and add a map of the words' states."""

    def __init__(self, dim: int, layers: int, depth: int, *, mixture: bool, skip: bool, norm: bool) -> None:
        super().__init__()
        self.depth = depth
        # The task's layer has most of the weight at first: .96 of 7 layers.
        start = torch.zeros(layers + 1)
        start[depth] = 5.0
        self.weights = nn.Parameter(start) if mixture else None
        self.scale = nn.Parameter(torch.ones(())) if mixture else None
        self.norm = nn.LayerNorm(dim) if norm else None
        self.skip = zero_linear(dim, dim, bias=False) if skip else None

    def forward(self, layers: tuple[Tensor, ...]) -> Tensor:
        """Return the states (n, length, dim) for all hidden layers, of which those not read may be empty."""
        if self.weights is None or self.scale is None:
            states = layers[self.depth]
        else:
            shares = self.weights.float().softmax(0).to(layers[0].dtype)
            states = self.scale * sum(share * layer for share, layer in zip(shares, layers, strict=True))
        states = states if self.norm is None else self.norm(states)
        return states if self.skip is None else states + self.skip(layers[0])


class MultiLevel(Architecture):
    """Share one encoder, of which every task reads its own layer, or a learned mixture of all layers.

    ``Z_t = H^k`` at the depth k of the task, or ``g_t sum_k softmax(w_t)_k H^k`` (equation 1 of Peters et al.), w starting at 5 for the
    task's depth and 0 else. With `skip` ``+ W_t H^0``, the words again, W starting at zero. Layers above a task's depth get no gradient
    from it. In encoders whose layers end without a norm, a norm of the task follows for layers below the last.

    Parameters of a task: N + 2 for a mixture of N layers, d^2 for `skip`, 2 d for a norm.

    Differences from the papers: they stack LSTM layers; the mixture has neither layer norm nor layer dropout.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        depths: Annotated[
            dict[str, int],
            Field(description="layer of each task, such as {pos: 2}; 0 is the embeddings, the default the last"),
        ] = {},  # noqa: B006
        mixture: Annotated[
            bool, Field(description="learn a mixture of all layers, which starts near the task's")
        ] = False,
        skip: Annotated[bool, Field(description="add a map of the words' states")] = False,
        mixture_lr: Annotated[float, Field(gt=0, description="peak learning rate of the mixtures")] = 1e-2,
    ) -> None:
        super().__init__()
        config: Any = facts.encoder.config
        count, self.encoder, self.lr = int(config.num_hidden_layers), facts.encoder, mixture_lr
        check_names(list(depths), facts.names, "depths")
        for name, depth in depths.items():
            if not 0 <= depth <= count:
                raise MtlError(f"architecture.depths: found {depth} for {name}; expected 0 (embeddings) to {count}")
        # Layers below the last of a pre-norm encoder are not normalized, so their scale differs from the last layer's.
        bare = _ends_without_norm(facts.encoder)
        self.depths = [depths.get(name, count) for name in facts.names]
        self.count, self.mixture, self.skip = count, mixture, skip
        self.levels = facts.task_modules(
            "level",
            lambda task: Level(
                facts.width, count, self.depths[task], mixture=mixture, skip=skip,
                norm=bare and (mixture or self.depths[task] < count),
            ),
        )  # fmt: skip

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def layers_read(self, task: int) -> tuple[int, ...]:
        """Return the task's layer, or all of a mixture."""
        if self.mixture:
            return tuple(range(self.count + 1))
        depth = self.depths[task]
        return ((depth,) if depth < self.count else ()) + ((0,) if self.skip else ())

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the states at the task's level as the last layer."""
        # Without requested layers only the last one is read, and its number stays valid.
        layers = (*hidden.layers[:-1], hidden.last) if hidden.layers else (hidden.last,) * (self.count + 1)
        return hidden.with_last(self.levels.of(task)(layers))

    def parts(self) -> dict[str, Part]:
        """Return one part per task, if levels have parameters."""
        parts = {}
        for name, part in self.levels.parts("levels").items():
            level = self.levels[name.removeprefix("levels.")]
            # A part without parameters is not allowed: a plain level has none.
            if any(True for _ in level.parameters()):
                parts[name] = part
            if self.mixture:
                # The longer prefix counts, so that only these two have the mixture's rate.
                for key in ("weights", "scale"):
                    parts[f"{name}.{key}"] = Part(part.tasks, self.lr, decay=False)
        return parts

    @classmethod
    def check_tasks(cls, options: Mapping[str, Any], readable: Mapping[str, Target | None]) -> None:
        """Check the tasks that `depths` names."""
        check_names(list(options.get("depths", {})), list(readable), "depths")


def _ends_without_norm(encoder: nn.Module) -> bool:
    """Return whether the layers of an encoder end without a norm; False where that cannot be traced."""
    try:
        return trace_layers(encoder)[0].last_norm is None
    except MtlError:
        # An encoder that cannot be traced, such as XLNet, still has layers to read.
        return False
