"""Pipelines of features. Label embeddings: Hashimoto et al. (JMT), EMNLP 2017, arXiv 1611.01587; cascades: Gong et al. (DCMTL),
AAAI 2019; fusion of levels: Chen, Zhang and Yang, 2021, arXiv 2109.09138, section 2.2.1."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, Part
from mtlcli.architectures.hierarchy import Detach, Hierarchical, Order, check_names, check_order, once, per_token
from mtlcli.architectures.layers import trace_layers
from mtlcli.architectures.modules import normal_linear, zero_linear
from mtlcli.architectures.options import RateOfHeads
from mtlcli.errors import MtlError
from mtlcli.tasks.targets import Target

HIGHEST = 0.95
"""Weight of a task's own level before step 1, when it fuses levels."""


class Levels(nn.Module):
    """Weigh the features of several levels, token by token, by attention or by a gate.

    Attention: ``Z = sum_j beta_j F_j``, beta the softmax over j of ``w . tanh(W F_j)``, plus a bias for the task's own level. Gate:
    ``g = sigmoid(V [F_low; F] + b)``, ``Z = g * F_low + (1 - g) * F``, with F the task's own level and F_low that below it.
    """

    def __init__(self, dim: int, combine: str, lower: int) -> None:
        super().__init__()
        self.combine = combine
        if combine == "gate":
            self.gate = zero_linear(2 * dim, dim)
            # The gate is the share of the lower level: sigmoid of this is 1 - HIGHEST.
            nn.init.constant_(self.gate.bias, math.log((1 - HIGHEST) / HIGHEST))
        else:
            self.project, self.score = nn.Linear(dim, dim, bias=False), zero_linear(dim, 1, bias=False)
            # With scores of 0 for `lower` levels, the softmax gives HIGHEST to the level with this bias.
            self.bias = nn.Parameter(torch.tensor(math.log(lower * HIGHEST / (1 - HIGHEST))))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return the fused features, for levels (n, length, dim) each, the task's own one last."""
        *_, low, own = levels
        if self.combine == "gate":
            share = torch.sigmoid(self.gate(torch.cat([low, own], dim=-1)))
            return share * low + (1 - share) * own
        stacked = torch.stack(levels)
        scores = self.score(torch.tanh(self.project(stacked))).float()
        # The levels are stacked with the task's own one last: (levels, n, length, 1).
        bias = torch.cat([self.bias.new_zeros(len(levels) - 1), self.bias.reshape(1)])
        weights = torch.softmax(scores + bias.view(-1, 1, 1, 1), dim=0).to(stacked.dtype)
        return (weights * stacked).sum(0)


class FeaturePipeline(Hierarchical):
    """Order the tasks, and feed each with what the tasks below it predict or read for the same text.

    With k_t the hidden layer of task t, x = H^0 the embeddings, and p_s what a lower task s predicts: probabilities, or a score in
    standard deviations, for each token if s tags words, else the same for every token of the text:

    * ``labels`` (JMT): ``Z_t = H^{k_t} + W_t [H^{k_t}; x; y_s ...] + b`` with label embeddings ``y_s = p_s E_s``, for all s below t;
      E_s has a row of `label_width` numbers for each label (the paper, second hand).
    * ``cascade`` (DCMTL): ``Z_t = Z_s + C_t p_s + R_t x`` for the nearest s below; the lowest task reads H^N.
    * ``fusion``: the levels H^{k_s} of the tasks below are weighed against H^{k_t}, see `Levels`. It runs no heads.

    The head of t reads Z_t. W, b, C and R start at 0, so that every task starts with the encoder's states; fusion starts with a
    weight of 0.95 for the task's own level. The loss of a task trains the heads and modules of the tasks below it (`detach`).

    Parameters: `labels` ``d (2 d + |S| e) + d`` for a task above the tasks S, and ``C_s e`` for each task that is read; `cascade`
    ``d^2 + d C_s``; `fusion` ``d^2 + d + 1`` for attention and ``2 d^2 + d`` for a gate.

    Differences from the papers: JMT and DCMTL have a recurrent layer per level, here a level is a layer of the encoder; both train
    task by task (`scheduler: stages`), and JMT adds successive regularization (the regularizer `successive`). DCMTL's program
    trains on the gold labels of lower tasks and adds the states of all of them at its third level; here predictions are passed on,
    as in its text. In a pre-norm encoder a level below the last gets a norm of its own. W is written as the identity plus W.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        form: Annotated[
            Literal["labels", "cascade", "fusion"],
            Field(description="what a task reads of those below it, see the class"),
        ] = "labels",
        order: Order = None,
        depths: Annotated[
            dict[str, int],
            Field(
                description="hidden layer of each task, such as {pos: 3}, 0 for the embeddings; the default is the last"
            ),
        ] = {},  # noqa: B006
        label_width: Annotated[int, Field(ge=1, description="width of the label embeddings")] = 100,
        combine: Annotated[
            Literal["attention", "gate"],
            Field(description="of fusion: attention over all levels, or a gate for the nearest one"),
        ] = "attention",
        detach: Detach = False,
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__(facts, order, detach=detach, lr=lr)
        self.check_tasks({"form": form, "order": order, "depths": depths}, facts.readable_targets)
        config: Any = facts.encoder.config
        last, dim = int(config.num_hidden_layers), facts.width
        for name, depth in depths.items():
            if not 0 <= depth <= last:
                raise MtlError(f"architecture.depths: found {depth} for {name}; expected 0 (embeddings) to {last}")
        self.form = form
        self.depth = [depths.get(name, last) for name in facts.names]
        self.last = last
        # Traced only where it matters, because encoders that cannot be traced can run without depths.
        pre_norm = bool(depths) and trace_layers(facts.encoder)[0].last_norm is None
        self.norms = facts.task_modules(
            "norms", lambda t: nn.LayerNorm(dim) if pre_norm and self.depth[t] < last else nn.Identity()
        )
        if form == "fusion":
            # Levels are read without heads, so that any task can be below another one.
            places = {t: place for place, t in enumerate(self.order)}
            self.lower = tuple(self.order[: places[t]] if t in places else () for t in range(len(facts.tasks)))

        def tables(t: int) -> nn.Module:
            # A table that no task reads would have no gradient.
            if form != "labels" or not self.above(t):
                return nn.Identity()
            return normal_linear(self.sizes[t], label_width, bias=False)

        def mix(t: int) -> nn.Module:
            lower = self.lower[t]
            if form == "fusion":
                return Levels(dim, combine, len(lower)) if lower else nn.Identity()
            if form == "cascade":
                if not lower:
                    return nn.Identity()
                # The nearest task below alone; its state holds what those below it added.
                sizes = {"label": self.sizes[lower[-1]], "words": dim}
                return nn.ModuleDict({name: zero_linear(size, dim, bias=False) for name, size in sizes.items()})
            return zero_linear(2 * dim + len(lower) * label_width, dim)

        self.labels = facts.task_modules("labels", tables)
        self.mix = facts.task_modules("mix", mix)

    @classmethod
    def check_tasks(cls, options: Mapping[str, Any], readable: Mapping[str, Target | None]) -> None:
        """Check `order` and `depths`."""
        form, order, depths = options.get("form", "labels"), options.get("order"), options.get("depths", {})
        check_order(order, dict.fromkeys(readable, True) if form == "fusion" else readable, top=True)
        check_names(list(depths), list(readable), "depths")
        if form == "cascade" and depths:
            raise MtlError(
                "architecture.depths: a cascade starts from the last layer; remove depths, or choose another form"
            )
        if form == "fusion" and len(readable) > 1 and len({depths.get(name) for name in order or readable}) < 2:
            raise MtlError(
                "architecture.depths: fusion reads the levels of lower tasks, and all tasks have the same one; set depths, such as "
                f"{{{next(iter(order or readable))}: 1}}"
            )

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the features of a task, and on the way those of the tasks below it."""
        make = {"labels": self._labels, "cascade": self._cascade, "fusion": self._fusion}[self.form]

        def features_of(t: int) -> HiddenStates:
            return hidden.with_last(make(t, hidden, values, numbers))

        # Both names are defined when `features_of` is called. Features need predictions of lower tasks, and the
        # reverse.
        values = once(features_of)
        numbers = once(lambda s: self.predicted(s, values(s), inputs))
        return values(task)

    def _level(self, task: int, hidden: HiddenStates) -> Tensor:
        """Return the hidden states of the task's layer."""
        depth = self.depth[task]
        states: Tensor = self.norms.of(task)(hidden.last if depth == self.last else hidden.layers[depth])
        return states

    def _labels(
        self, task: int, hidden: HiddenStates, values: Callable[[int], HiddenStates], numbers: Callable[[int], Tensor]
    ) -> Tensor:
        level = self._level(task, hidden)
        read = [level, hidden.layers[0]]
        read += [per_token(self.labels.of(s)(numbers(s)), level) for s in self.lower[task]]
        return level + self.mix.of(task)(torch.cat(read, dim=-1))

    def _cascade(
        self, task: int, hidden: HiddenStates, values: Callable[[int], HiddenStates], numbers: Callable[[int], Tensor]
    ) -> Tensor:
        if not self.lower[task]:
            return hidden.last
        below, modules = self.lower[task][-1], self.mix.of(task)
        state = values(below).last
        return state + modules["label"](per_token(numbers(below), state)) + modules["words"](hidden.layers[0])

    def _fusion(
        self, task: int, hidden: HiddenStates, values: Callable[[int], HiddenStates], numbers: Callable[[int], Tensor]
    ) -> Tensor:
        levels = [self._level(t, hidden) for t in (*self.lower[task], task)]
        fused: Tensor = self.mix.of(task)(levels) if len(levels) > 1 else levels[0]
        return fused

    def layers_read(self, task: int) -> tuple[int, ...]:
        """Return the layers of the task and of those below it, and the embeddings."""
        depths = {self.depth[t] for t in (task, *self.lower[task])} - {self.last}
        reads_words = self.form == "labels" or (self.form == "cascade" and self.lower[task])
        return tuple(sorted(depths | ({0} if reads_words else set())))

    def reads(self, task: int) -> tuple[int, ...]:
        """Return the lower tasks whose heads learn from a task's loss."""
        return () if self.form == "fusion" else super().reads(task)

    def runs(self, task: int) -> tuple[int, ...]:
        """Return the lower tasks whose heads run."""
        return () if self.form == "fusion" else super().runs(task)

    def parts(self) -> dict[str, Part]:
        """Return who uses a task's label embeddings, and who its mixture: the task, and those above that learn through it."""
        users: dict[str, tuple[int, ...]] = {}
        for t, above in enumerate(map(self.above, range(len(self.names)))):
            # A cascade adds to the states of the task below, which `detach` does not cut off.
            through = above if self.form == "cascade" or (self.form == "labels" and not self.detach) else ()
            users[f"labels.{t}"] = above
            users[f"mix.{t}"] = tuple(sorted({t, *through}))
            # Fusion reads the normalized levels of lower tasks, which `detach` does not cut off.
            users[f"norms.{t}"] = tuple(sorted({t, *(above if self.form == "fusion" else through)}))
        parts = {}
        for key, tasks in users.items():
            module, _, number = key.partition(".")
            prefix = f"{module}.for_{self.names[int(number)]}"
            if any(True for _ in self.get_submodule(prefix).parameters()):
                parts[prefix] = Part(tasks, self.lr)
        return parts
