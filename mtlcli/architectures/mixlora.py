"""MixLoRA: Li et al., 2024, arXiv 2404.15159."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, Part
from mtlcli.architectures.hooks import Call, changed
from mtlcli.architectures.layers import run_short_text
from mtlcli.architectures.lora import LoRA, LowRank, weight_of
from mtlcli.architectures.modular import Outputs, PlaceInputs
from mtlcli.architectures.modules import TaskVector, normal_linear
from mtlcli.architectures.options import Backbone, Rate
from mtlcli.architectures.peft_files import PeftLora
from mtlcli.architectures.routing import balance, top_weights
from mtlcli.errors import MtlError


class Expert(nn.Module):
    """Hold the changes of low rank of one expert: of each projection into the feed-forward network, and of the one out of it."""

    def __init__(self, inner: Sequence[LowRank], outer: LowRank) -> None:
        super().__init__()
        self.inner, self.outer = nn.ModuleList(inner), outer


class MixLoRA(LoRA):
    """Route every token to feed-forward networks that share their weights and differ by changes of low rank.

    ``y = sum_e w_e ffn_e(h)`` with w the `top` largest of ``softmax(W h)``, rescaled to a sum of 1, and ffn_e the encoder's feed-forward
    network with a change of its own of every projection: ``W + s B_e A_e``. The activation lies between, so an expert is not a
    sum of changes. The attention's projections have a plain LoRA. With `router: token+task` the router reads ``h + V z_t``, z_t a vector of
    the task. B starts at zero: before step 1 the states are the encoder's up to rounding, since the weights sum to 1.

    The balance loss ``balance * E sum_e f_e P_e`` keeps experts in use, see `task-moe`. A token's experts do not depend on its batch.

    Parameters per layer: E r (d + F) for each projection of the feed-forward network, E d for the router, and r (in + out) for each
    projection of the attention.

    Differences from the paper: `token+task`, and ranks and rate; its program has no training code. A dropout between the two
    projections, as in T5, is left out in the experts.
    """

    default_per = "both"
    why_no_graph = "sends each token through the experts that its values choose, which PyTorch cannot trace"

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        experts: Annotated[int, Field(ge=1, description="number of experts E in a layer")] = 8,
        top: Annotated[int, Field(ge=1, description="number of experts of a token")] = 2,
        router: Annotated[Literal["token", "token+task"], Field(description="what the router reads")] = "token",
        rank: Annotated[int, Field(ge=1, description="rank of the changes")] = 8,
        alpha: Annotated[float, Field(gt=0, description="changes are scaled by alpha / rank")] = 16.0,
        dropout: Annotated[float, Field(ge=0, lt=1, description="dropout of the input of a change")] = 0.0,
        balance: Annotated[float, Field(ge=0, description="weight of the balance loss")] = 0.01,
        backbone: Backbone = "frozen",
        lr: Rate = 2e-4,
    ) -> None:
        super().__init__(
            facts, rank=rank, alpha=alpha, dropout=dropout, on=["query", "key", "value", "attention-out"], per="shared",
            backbone=backbone, lr=lr,
        )  # fmt: skip
        if top > experts:
            raise MtlError(f"architecture.top: found {top}; expected at most the {experts} experts")
        self.coupling = "batch" if balance else "rows"  # shares of the tokens of a batch
        self.top, self.balance, self.activation, self.form = top, balance, *self._find_activation()
        scale = alpha / rank

        def low_rank(name: str) -> LowRank:
            weight = weight_of(self.encoder.get_submodule(name))
            return LowRank(weight, rank, scale=scale, dropout=dropout, magnitude=False)

        self.experts = nn.ModuleList(
            nn.ModuleList(
                Expert([low_rank(name) for name in layer.ffn_in], low_rank(layer.ffn_out)) for _ in range(experts)
            )
            for layer in self.layers
        )
        self.routers = nn.ModuleList(normal_linear(facts.width, experts, bias=False) for _ in self.layers)
        if router == "token+task":
            self.tasks = facts.task_modules("task vector", lambda _: TaskVector(facts.width))

    def _find_activation(self) -> tuple[tuple[str, ...], str]:
        """Return the names of the activation in each layer, and how it makes the hidden state: `plain`, `gated` or `halves`.

        Raises:
            MtlError: no activation between the projections makes the hidden state.
        """
        names: list[str] = []
        forms: set[str] = set()
        for layer in self.layers:
            block = self.encoder.get_submodule(layer.block)
            # A module without parameters; which one is the activation is found by its effect, not by its name.
            candidates = [
                f"{layer.block}.{name}"
                for name, module in block.named_modules()
                if name
                and not any(module.children())
                and next(module.parameters(), None) is None
                and not isinstance(module, nn.Dropout)
            ]
            read, given = dict[int, Tensor](), list[Tensor]()

            # The default arguments bind the dicts and lists of this layer.
            def keep(call: Call, output: Tensor, read: dict[int, Tensor] = read) -> Tensor:
                # Of the first call, where one block is called at several depths.
                read.setdefault(call.index, output)
                return output

            def last(call: Call, given: list[Tensor] = given) -> Tensor:
                given.append(call.given)
                return call.given

            was_training = self.encoder.training
            try:
                self.encoder.eval()
                with changed(self.encoder, [layer], outputs={"ffn_in": keep}, inputs={"ffn_out": last}):
                    run_short_text(self.encoder)
            finally:
                self.encoder.train(was_training)
            activations = [
                (name, form)
                for name in candidates
                for form in ("plain", "gated", "halves")
                if self._makes(self.encoder.get_submodule(name), form, read, given[0])
            ]
            if not activations:
                raise MtlError(
                    "architecture: no activation of this encoder makes the hidden state of its feed-forward network"
                )
            names.append(activations[0][0])
            forms.add(activations[0][1])
        return tuple(names), forms.pop()

    def _makes(self, activation: nn.Module, form: str, read: Mapping[int, Tensor], hidden: Tensor) -> bool:
        try:
            made = hidden_state(activation, form, [read[index] for index in range(len(read))])
        # A candidate may be no activation at all, or need other arguments.
        except (IndexError, RuntimeError, TypeError, ValueError):
            return False
        return made.shape == hidden.shape and torch.allclose(made, hidden, atol=1e-5)

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the hidden states of the encoder with experts, and the balance loss in training."""
        terms: list[Tensor] = []
        hidden = self.run(inputs, *self._changes(task, inputs, terms))
        if not self.training or not self.balance:
            return hidden
        return HiddenStates(
            hidden.last, hidden.layers, (self.balance * torch.stack(terms).mean()).expand(len(hidden.last))
        )

    def modules_of(self, task: int) -> list[Any]:
        """Return the changes of the attention, the same for every task."""
        # `tasks` holds the vectors of the router, which are no changes of the encoder.
        return [self.shared]

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the experts and the attention's LoRA as changes of outputs."""
        return self._changes(task, inputs, [])

    def _changes(self, task: int, inputs: Inputs, terms: list[Tensor]) -> tuple[Outputs, PlaceInputs]:
        """Return the changes; each layer adds its balance term to `terms`."""
        attention, _ = super().changes(task, inputs)
        read, states = dict[int, Tensor](), list[Tensor]()
        mask = inputs.full_mask

        def keep(call: Call, output: Tensor) -> Tensor:
            read[call.index] = output
            # The first projection of a layer: the states of earlier layers are no longer needed.
            if call.index == 0:
                states[:] = [call.given]
            return output

        def mix(call: Call, output: Tensor) -> Tensor:
            h = states[0]
            routed = h if self.tasks is None else h + self.tasks.of(task).vector
            # The softmax in float32, because half precision would make close probabilities equal.
            probabilities = self.routers[call.depth](routed).float().softmax(-1)
            terms.append(balance(probabilities[mask], self.top))
            inner = [read[index].flatten(0, 1) for index in range(len(read))]
            # Padding is routed to no expert.
            weights = top_weights(probabilities, self.top) * mask.unsqueeze(-1)
            mixed = self._mixture(call, h.flatten(0, 1), inner, weights.flatten(0, 1))
            return mixed.view_as(output)

        return {**attention, "ffn_in": keep, "ffn_out": mix}, {}

    def _mixture(self, call: Call, states: Tensor, inner: list[Tensor], weights: Tensor) -> Tensor:
        """Return the weighted outputs (tokens, dim) of the experts, each computed for the tokens that chose it.

        Args:
            states: input of the feed-forward network (tokens, dim).
            inner: outputs of its first projections without a change.
            weights: of the experts (tokens, experts), 0 where an expert is not chosen.
        """
        layer = self.layers[call.depth]
        projections = [self.encoder.get_submodule(name) for name in layer.ffn_in]
        activation = self.encoder.get_submodule(self.activation[call.depth])
        experts: Any = self.experts[call.depth]
        # Pairs of an expert and a token, expert by expert: whatever the experts share is computed once for all pairs. The gradient of a
        # selection is as large as all tokens, so there is one for each tensor, not one for each expert.
        # Transposed, because `nonzero` lists the pairs in the order of the first axis.
        numbers, tokens = weights.T.nonzero().unbind(1)
        sizes = numbers.bincount(minlength=len(experts)).tolist()
        given = states.index_select(0, tokens)
        changed_inner = []
        for index, (output, module) in enumerate(zip(inner, projections, strict=True)):
            projected = output.index_select(0, tokens)
            changes = [expert.inner[index] for expert in experts]
            changed_inner.append(projected + by_expert(changes, given, projected, weight_of(module), sizes))
        hidden = hidden_state(activation, self.form, changed_inner)
        # The module's own class, because the weights of GPT-2 are transposed.
        outer = nn.functional.linear(hidden, weight_of(call.module), getattr(call.module, "bias", None))
        outer = outer + by_expert([expert.outer for expert in experts], hidden, outer, weight_of(call.module), sizes)
        total = torch.zeros(len(states), outer.shape[1], dtype=inner[0].dtype, device=states.device)
        # A token has a row for each of its experts, and the rows are summed. Padding has none and stays 0.
        return total.index_add(0, tokens, (weights[tokens, numbers].unsqueeze(1) * outer).to(total.dtype))

    def parts(self) -> dict[str, Part]:
        """Return the parts of experts and routers, shared by all tasks, and of the tasks' vectors."""
        return super().parts() | {"experts": Part(lr=self.lr), "routers": Part(lr=self.lr)}

    def merged(self, task: int | None) -> nn.Module:
        """Raise MtlError: the experts depend on the token."""
        raise MtlError("routes every token to experts, which no plain encoder can do")

    def to_peft(self, task: int | None) -> PeftLora:
        """Raise MtlError: peft has no experts."""
        raise MtlError("routes every token to experts, which a folder of peft cannot hold")


def by_expert(
    changes: Sequence[nn.Module], given: Tensor, output: Tensor, weight: Tensor, sizes: Sequence[int]
) -> Tensor:
    """Return the changes of low rank of an output, each for the next `sizes` of the rows (rows, out)."""
    parts = zip(changes, given.split(sizes), output.split(sizes), strict=True)
    # No call for an expert without tokens, whose parameters then have no gradient. Without DoRA the bias is not read.
    return torch.cat([change(part, of_part, weight, None) for change, part, of_part in parts if len(part)])


def hidden_state(activation: nn.Module, form: str, projected: Sequence[Tensor]) -> Tensor:
    """Return the hidden state of a feed-forward network from the outputs of its first projections.

    Args:
        form: `plain`: one output; `gated`: two, of which the first is activated; `halves`: one with both side by side.
    """
    if form == "plain":
        (single,) = projected
        state: Tensor = activation(single)
        return state
    first, second = projected if form == "gated" else projected[0].chunk(2, dim=-1)
    gated: Tensor = activation(first) * second
    return gated
