"""Sluice networks: Ruder et al., AAAI 2019, arXiv 1705.08142."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, Part
from mtlcli.architectures.layers import trace_layers
from mtlcli.architectures.lora import weight_of
from mtlcli.architectures.options import RateOfHeads, of_heads
from mtlcli.architectures.towers import Towers
from mtlcli.errors import MtlError

Initial = Literal["aligned", "imbalanced", "balanced"]


class LayerMixture(nn.Module):
    """Return ``sum_k beta_k H^k`` over layers; those below the last pass a norm where the encoder's layers end without one."""

    def __init__(self, dim: int, layers: int, *, norm: bool) -> None:
        super().__init__()
        # The released program's imbalanced start: 0.9 for the last layer, 0.1 divided among the others.
        weights = torch.full((layers,), 0.1 / max(1, layers - 1))
        weights[-1] = 0.9 if layers > 1 else 1.0
        self.weights = nn.Parameter(weights)
        self.norm = nn.LayerNorm(dim) if norm and layers > 1 else None

    def forward(self, layers: tuple[Tensor, ...]) -> Tensor:
        """Return the mixture (n, length, dim) of layers of this shape."""
        lower = layers[:-1] if self.norm is None else [self.norm(layer) for layer in layers[:-1]]
        return torch.stack([w * layer for w, layer in zip(self.weights, (*lower, layers[-1]), strict=True)]).sum(0)


class Sluice(Towers):
    """Give every task its own copy of the layers, split the states into subspaces, and mix those of all tasks after every layer.

    With the states of T tasks split into pieces ``x = [H_11; H_12; H_21; ...]`` along their width, ``x'_i = sum_j alpha^k_ij x_j`` after
    layer k, which the next layer reads, and ``Z_t = sum_k beta_tk H'_t^k``. Added to the loss is ``c sum_t sum_k ||G_t1^T G_t2||^2 / F^2``,
    which keeps subspaces apart: G_t1 and G_t2 (d / 2, F) are the rows of the last projection of a layer that write the first and
    the second half. One subspace is a cross-stitch network (Misra et al., 2016).

    Alpha starts with `own` for a piece itself and the rest `aligned`: shared by the same subspace of the other tasks, so that the states
    before step 1 are the encoder's up to rounding; `imbalanced`: by all other pieces; `balanced`: all equal, which mixes the
    coordinates of a pretrained encoder. Beta starts at .9 for the last layer. All towers learn from every task, and each batch runs
    all of them.

    Parameters: T - 1 copies of the layers, (2 T)^2 for each layer, one per layer and task.

    Differences from the paper: Transformer layers in place of LSTMs; the penalty is a mean over the entries, split over the T tasks of a
    step, on the last projection of each layer; `aligned` is a choice made here. The paper's strength of the penalty is tuned.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        layers: Annotated[
            int | None, Field(ge=1, description="last layers of which every task has its own copy; the default is all")
        ] = None,
        subspaces: Annotated[int, Field(ge=1, le=2, description="parts of the states of a task")] = 2,
        initial: Annotated[
            Initial, Field(description="where the weights that no piece gives to itself begin")
        ] = "aligned",
        own: Annotated[float, Field(ge=0, le=1, description="weight of a piece for itself before step 1")] = 0.9,
        orthogonality: Annotated[float, Field(ge=0, description="strength c of the penalty on two subspaces")] = 0.01,
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__(facts, layers)
        if facts.width % subspaces:
            raise MtlError(f"architecture.subspaces: the encoder's width {facts.width} is no multiple of {subspaces}")
        self.subspaces, self.orthogonality = subspaces, orthogonality if subspaces > 1 else 0.0
        self.lr = of_heads(lr)
        # One entry for each copied layer: encoders with a block at several depths were rejected above.
        traced = trace_layers(facts.encoder)[self.depth - len(self.copied) :]
        # Within a layer, to be found in its copies.
        self.outputs = tuple(layer.ffn_out.removeprefix(f"{layer.block}.") for layer in traced)
        start = initial_weights(self.count, subspaces, initial, own)
        # Keyed by the layer's number in the encoder, as the copies are.
        numbers = (name.split(".")[-1] for name in self.copied)
        self.alpha = nn.ParameterDict({number: nn.Parameter(start.clone()) for number in numbers})
        bare = traced[0].last_norm is None
        self.beta = facts.task_modules("beta", lambda _: LayerMixture(facts.width, len(self.copied), norm=bare))

    def meet(self, index: int, states: list[Tensor]) -> list[Tensor]:
        """Return the pieces of all tasks mixed by the layer's alpha."""
        alpha = self.alpha[self.copied[index].split(".")[-1]]
        # Task by task, subspace by subspace: H_11, H_12, H_21, ..., the order of the rows of alpha.
        pieces = torch.stack([piece for state in states for piece in state.chunk(self.subspaces, dim=-1)])
        mixed = torch.einsum("ij,j...->i...", alpha.to(pieces.dtype), pieces)
        return [torch.cat(tuple(of_task), dim=-1) for of_task in mixed.split(self.subspaces)]

    def layers_read(self, task: int) -> tuple[int, ...]:
        """Return the copied layers."""
        return tuple(range(self.depth - len(self.copied) + 1, self.depth))

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the mixture of the task's layers as the last one, and in training the penalty."""
        own = self.own(task, hidden)
        # Layers below the copied ones are not in the mixture. With one copied layer, `layers` can be empty.
        layers = (*own.layers[len(own.layers) - len(self.copied) : -1], own.last)
        mixed = own.with_last(self.beta.of(task)(layers))
        if not (self.training and self.orthogonality and mixed.last.requires_grad):
            return mixed
        # Every task of a step adds it, and it penalizes all towers, so each adds a share of 1 / T.
        extra = self.orthogonality / self.count * self.penalty()
        return HiddenStates(mixed.last, mixed.layers, extra.expand(len(mixed.last)))

    def penalty(self) -> Tensor:
        """Return the sum over tasks and layers of the mean of the squared entries of ``G_1^T G_2``."""
        terms = []
        for index, output in enumerate(self.outputs):
            for copy in self.copies(index):
                # Rows of the projection (d, F) write the coordinates of the states: its halves write the two subspaces.
                first, second = weight_of(copy.get_submodule(output)).float().chunk(2)
                # ||A^T B||^2 = <A A^T, B B^T>, which needs no (F, F) matrix.
                terms.append(((first @ first.T) * (second @ second.T)).sum() / first.shape[1] ** 2)
        return torch.stack(terms).sum()

    def below(self) -> tuple[nn.Module, ...]:
        """Return the encoder, the copies and what mixes them."""
        # Not beta, which `features` applies to the states of all layers.
        return (*super().below(), self.alpha)

    def parts(self) -> dict[str, Part]:
        """Return alpha, shared by all tasks, and beta of each task."""
        parts = {"alpha": Part(lr=self.lr, decay=False)}
        return parts | self.beta.parts("beta", lr=self.lr, decay=False)

    def merged(self, task: int | None) -> nn.Module:
        """Raise: no encoder mixes the states of others."""
        raise MtlError("mixes the towers of all tasks after every layer, which no plain encoder can do")


def initial_weights(tasks: int, subspaces: int, initial: Initial, own: float) -> Tensor:
    """Return alpha (tasks * subspaces, tasks * subspaces) before step 1; every row sums to 1."""
    size = tasks * subspaces
    if initial == "balanced":
        return torch.full((size, size), 1 / size)
    pieces = torch.arange(size)
    others = ~torch.eye(size, dtype=torch.bool)
    if initial == "aligned":
        # Pieces are numbered task by task, so equal remainders mark the same subspace.
        others &= (pieces[:, None] - pieces[None, :]) % subspaces == 0
    count = others.sum(1, keepdim=True)
    rest = others * (1 - own) / count.clamp_min(1)
    # A piece that no other shares with, as with one task, keeps all of its state.
    return rest + torch.diag(torch.where(count[:, 0] > 0, own, 1.0))
