"""Adapters: Houlsby et al., ICML 2019, arXiv 1902.00751; Pfeiffer et al., EACL 2021, arXiv 2005.00247 and MAD-X, EMNLP 2020,
arXiv 2005.00052; He et al., ICLR 2022, arXiv 2110.04366."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import ArchitectureFacts, Inputs, Part, TaskModules
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.modules import normal_linear, zero_linear
from mtlcli.architectures.options import Backbone, Norms, Per, Rate
from mtlcli.errors import MtlError

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "swish": nn.SiLU, "tanh": nn.Tanh}

PLACES = {"houlsby": ("attention_out", "ffn_out"), "pfeiffer": ("ffn_out",), "parallel": ("ffn_out",)}
"""Where the bottlenecks of each form stand in a layer."""

DIVISORS = {"houlsby": 16, "pfeiffer": 16, "parallel": 2}
"""Width of the encoder divided by the width of a bottleneck, by form."""


class Bottleneck(nn.Module):
    """Return the change ``scale U activation(D x + b) + c`` of states x (..., dim), with D (width, dim) and U (dim, width)."""

    def __init__(self, dim: int, width: int, *, activation: str, scale: float = 1.0, zero: bool = True) -> None:
        super().__init__()
        # One factor alone may be zero: two would never learn.
        self.down, self.up = normal_linear(dim, width), (zero_linear if zero else normal_linear)(width, dim)
        self.activation, self.scale = ACTIVATIONS[activation](), scale

    def forward(self, states: Tensor) -> Tensor:
        """Return the change, of the shape of the states."""
        change: Tensor = self.up(self.activation(self.down(states)))
        return change if self.scale == 1.0 else self.scale * change


class Coupling(nn.Module):
    """Map embeddings e = [e1; e2] to ``o1 = e1 + F(e2)`` and ``o2 = e2 + G(o1)`` (MAD-X, section 3.2), which can be inverted."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Halves of d / 2, each mapped through a bottleneck of d / 4.
        if dim % 4:
            raise MtlError(f"architecture.invertible: the encoder's width {dim} is no multiple of 4")
        self.f = Bottleneck(dim // 2, dim // 4, activation="relu")
        self.g = Bottleneck(dim // 2, dim // 4, activation="relu")

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the mapped embeddings (..., dim)."""
        first, second = embeddings.chunk(2, dim=-1)
        first = first + self.f(second)
        return torch.cat((first, second + self.g(first)), dim=-1)

    def inverse(self, mapped: Tensor) -> Tensor:
        """Return the embeddings of mapped ones (..., dim)."""
        first, second = mapped.chunk(2, dim=-1)
        second = second - self.g(first)
        return torch.cat((first - self.f(second), second), dim=-1)


class Adapters(Modular):
    """Add small bottlenecks to every layer of a frozen encoder, for each task or for all.

    With x the output of a projection or the stream, D (m, d), U (d, m) and an activation φ:

    * ``houlsby``: ``x + U φ(D x + b) + c`` on the projected output of the attention and of the feed-forward network. The
      adapter stands before the dropout of these outputs, in the paper behind it.
    * ``pfeiffer``: one per layer. In a post-norm layer with u the sum before the last norm, ``LN(u + U φ(D LN(u)))``, the layer's
      own norm used twice; in a pre-norm layer ``u + U φ(D u)`` on the layer's output.
    * ``parallel``: ``x + scale U φ(D h)`` on the feed-forward network's output, with h its input.

    U starts at zero, so that every hidden state is the encoder's before step 1. `per: both` adds the change of the shared adapter
    and that of the task's. With `languages`, the task's adapter reads the output of the adapter of its language (MAD-X, section
    3.3) and U starts random, since with U = 0 the language's adapter would have no effect; `invertible` maps the embeddings by a
    coupling per language, or where `per` says.

    Parameters per set and layer: k (2 d m + m + d), k = 2 for houlsby and 1 else.

    Differences from the papers: Houlsby et al. start near zero and train the norms (`norms: trained`); the widths and the learning
    rate are those of the AdapterHub library, and MAD-X's language adapters come from masked language modelling, here from
    training on the tasks or from a run (`init`).
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        form: Annotated[
            Literal["pfeiffer", "houlsby", "parallel"], Field(description="where the adapters stand, see the class")
        ] = "pfeiffer",
        width: Annotated[
            int | None,
            Field(ge=1, description="width of the bottleneck; default: that of the encoder / 16, parallel: / 2"),
        ] = None,
        activation: Annotated[
            Literal["relu", "gelu", "swish", "tanh"], Field(description="activation in the bottleneck")
        ] = "relu",
        scale: Annotated[float, Field(gt=0, description="factor of the change; He et al. use 4 for parallel")] = 1.0,
        per: Per = "task",
        languages: Annotated[
            dict[str, str],
            Field(description="language of each task, such as {sst: en}: adapters below those of the tasks"),
        ] = {},  # noqa: B006
        invertible: Annotated[bool, Field(description="whether the embeddings are mapped by a coupling")] = False,
        backbone: Backbone = "frozen",
        norms: Norms = "frozen",
        lr: Rate = 1e-4,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone, norms=norms)
        self.form, self.languages = form, dict(languages)
        names = [task.name for task in facts.tasks]
        if unknown := [name for name in languages if name not in names]:
            raise MtlError(f"architecture.languages: found {unknown[0]}; expected tasks of the run: {', '.join(names)}")
        if languages and form != "pfeiffer":
            raise MtlError('architecture.languages: adapters of languages need the form "pfeiffer"')
        m = width or max(1, facts.width // DIVISORS[form])

        def adapters(zero: bool = True, coupling: bool = False) -> nn.ModuleDict:
            modules: dict[str, nn.Module] = {
                place: nn.ModuleList(
                    Bottleneck(facts.width, m, activation=activation, scale=scale, zero=zero) for _ in self.layers
                )
                for place in PLACES[form]
            }
            return nn.ModuleDict(modules | ({"coupling": Coupling(facts.width)} if coupling else {}))

        # With languages, a coupling of the task would map the embeddings a second time.
        self.add_modules(facts, per, lambda: adapters(not languages, invertible and not languages))
        # Sorted, because the order of a set of names differs between processes and the random weights are drawn in it.
        self.of_languages = TaskModules({name: adapters(True, invertible) for name in sorted(set(languages.values()))})
        self.language_of = [languages.get(name) for name in names]

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the adapters as changes of outputs, and the coupling as that of the first layer's input."""
        sets, language = self.modules_of(task), self._language(task)
        couplings = [
            modules["coupling"] for modules in (*sets, language) if modules is not None and "coupling" in modules
        ]

        def couple(call: Call) -> Tensor:
            states = call.given
            # The input of the first layer is the output of the embeddings, after the projection of ALBERT and ELECTRA.
            if call.depth == 0:
                for coupling in couplings:
                    states = coupling(states)
            return states

        def change(place: str, depth: int, states: Tensor) -> Tensor:
            # The task's adapter reads the language's output, whose change is in the result only through it.
            if language is not None:
                states = states + language[place][depth](states)
            total: Tensor = sets[0][place][depth](states)
            for modules in sets[1:]:
                total = total + modules[place][depth](states)
            return total

        places: PlaceInputs = {"block": couple} if couplings else {}
        if self.form == "houlsby":
            return {
                "attention_out": lambda call, output: output + change("attention_out", call.depth, output),
                "ffn_out": lambda call, output: output + change("ffn_out", call.depth, output),
            }, places
        if self.form == "parallel":
            # The output hook receives only the input of the last projection, so that of the first one is kept.
            read: dict[int, Tensor] = {}

            def keep(call: Call, output: Tensor) -> Tensor:
                read[call.depth] = call.given
                return output

            return {
                "ffn_in": keep,
                "ffn_out": lambda call, output: output + change("ffn_out", call.depth, read[call.depth]),
            }, places
        # Pre-norm: no norm ends the layer, so the output of the block is the stream itself.
        if self.layers[0].last_norm is None:
            return {"block": lambda call, output: output + change("ffn_out", call.depth, output)}, places
        # The norm's module without its hooks, which would call this change again.
        return {
            "last_norm": lambda call, output: call.module.forward(call.given + change("ffn_out", call.depth, output))
        }, places

    def _language(self, task: int) -> Any:
        """Return the adapters of a task's language, None without one."""
        name = self.language_of[task]
        return None if name is None else self.of_languages.of(self.of_languages.tasks.index(name))

    def parts(self) -> dict[str, Part]:
        """Return one part per task, and one per language."""
        users: dict[str, tuple[int, ...]] = {}
        for task, name in enumerate(self.language_of):
            if name is not None:
                users[name] = (*users.get(name, ()), task)
        return super().parts() | {f"of_languages.for_{name}": Part(tasks, self.lr) for name, tasks in users.items()}

    @classmethod
    def compares(cls, options: Mapping[str, Any]) -> bool:
        """Return whether tasks share trainable parameters: also adapters of a language."""
        languages = list(options.get("languages", {}).values())
        return super().compares(options) or len(languages) > len(set(languages))
