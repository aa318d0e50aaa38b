"""Conditionally adaptive multi-task learning: Pilault et al., ICLR 2021, arXiv 2009.09139."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs
from mtlcli.architectures.hooks import Call
from mtlcli.architectures.layers import run_short_text
from mtlcli.architectures.modular import Modular, Outputs, PlaceInputs
from mtlcli.architectures.modules import TaskVector, zero_linear
from mtlcli.architectures.options import Backbone, RateOfEncoder
from mtlcli.errors import MtlError

IMPLEMENTATION = "mtlcli_bias"
"""The name under which transformers knows an attention with a bias of its scores."""

# One registered function serves all models, so the biases of a pass reach it by context variables.
_BIASES: ContextVar[list[Tensor]] = ContextVar("biases of the attention that are still to be added, one for each layer")
_ATTEND: ContextVar[Callable[..., Any]] = ContextVar("the attention whose scores get them")


def _attention_with_bias(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> Any:  # fmt: skip
    """Add the next bias to the scores of an attention."""
    bias = _BIASES.get().pop(0).to(query.dtype)
    # An unpadded batch of a bidirectional encoder has no mask.
    mask = bias if attention_mask is None else attention_mask.to(query.dtype) + bias
    return _ATTEND.get()(module, query, key, value, mask, **more)


AttentionInterface.register(IMPLEMENTATION, _attention_with_bias)
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)


@contextmanager
def biased(encoder: nn.Module, biases: list[Tensor]) -> Iterator[list[Tensor]]:
    """Add biases (1, 1, length, length) to the scores of the layers' attention, in the order of their calls.

    The list holds those that no layer has taken afterwards.
    """
    config: Any = encoder.config
    before = config._attn_implementation
    of_biases = _BIASES.set(biases)
    # A registered attention is that of `training.dropout_by: row`; `eager` is code of each encoder and not registered.
    of_attend = _ATTEND.set(AttentionInterface().get(before, sdpa_attention_forward))
    # Layers read this attribute of the configuration when they run.
    config._attn_implementation = IMPLEMENTATION
    try:
        yield biases
    finally:
        config._attn_implementation = before
        _ATTEND.reset(of_attend)
        _BIASES.reset(of_biases)


class FiLM(nn.Module):
    """Return ``(1 + g) * x + b`` for x (..., size), with [g; b] linear in a vector z; x itself before step 1."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.map = zero_linear(dim, 2 * size)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the modulated values."""
        scale, shift = self.map(z).chunk(2, dim=-1)
        modulated: Tensor = (1 + scale) * x + shift
        return modulated


class BlockDiagonal(nn.Module):
    """Return a bias (length, length) of attention scores: blocks on the diagonal, which are the rows of ``FiLM(z, R)``."""

    def __init__(self, dim: int, length: int, blocks: int) -> None:
        super().__init__()
        # Rounded up, so that the blocks cover the whole length.
        self.length, self.size = length, -(-length // blocks)
        self.rows = nn.Parameter(torch.zeros(length, self.size))
        self.film = FiLM(dim, self.size)

    def forward(self, z: Tensor) -> Tensor:
        """Return the bias for the vector of a task."""
        # The last block is cut where the blocks do not divide the length.
        blocks = self.film(z, self.rows).split(self.size)
        return torch.block_diag(*blocks)[:, : self.length]


class CAMTL(Modular):
    """Modulate a shared encoder by a vector of the task: embeddings, attention, norms and the last layer.

    With ``z_t = W e_t + b`` and ``FiLM(z, x) = (1 + g) * x + b``, [g; b] linear in z (section 2):

    * `alignment`: FiLM of the embeddings' output.
    * `attention`: in every layer a bias of the scores by position, the same for all heads and texts: blocks on the diagonal, the rows
      of ``FiLM(z, R)`` (equation 4).
    * `norms`: the weight of the norms in the upper half of the layers is ``FiLM(z, weight)`` (equation 5).
    * `bottleneck`: ``h + U D FiLM(z, h)`` on the last layer, of width d / 3 and without an activation.

    All maps to g and b, R and U start at zero, so that every hidden state is the encoder's before step 1.

    Parameters: d^2 + d for W; 2 d^2 + 2 d for the alignment, for each norm and for the bottleneck; for the attention of each layer
    L s + 2 s (d + 1), s = L / blocks; 2 m d + m + d for the bottleneck; d for each task.

    Differences from the paper's code: it draws all maps with a deviation of 0.02, and its bottleneck replaces the last layer's output,
    to which it is added here. The paper draws rows by uncertainty: the scheduler `entropy`.
    """

    default_per = "both"

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        alignment: Annotated[bool, Field(description="modulate the embeddings")] = True,
        attention: Annotated[bool, Field(description="bias the attention's scores")] = True,
        norms: Annotated[bool, Field(description="modulate the norms of the upper half of the layers")] = True,
        bottleneck: Annotated[bool, Field(description="add a bottleneck to the last layer")] = True,
        length: Annotated[
            int, Field(ge=1, description="longest text in tokens that the attention's bias covers")
        ] = 128,
        blocks: Annotated[
            int | None, Field(ge=1, description="blocks of the bias; by default the encoder's width / length")
        ] = None,
        backbone: Backbone = "trained",
        lr: RateOfEncoder = None,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone)
        d, depth = facts.width, len(self.layers)
        self.length = length
        modules: dict[str, nn.Module] = {"vector": nn.Linear(d, d)}
        if alignment:
            modules["alignment"] = FiLM(d, d)
        if attention:
            self._check_attention()
            self.why_no_graph = (
                "biases the scores of the encoder's attention (architecture.attention), which PyTorch cannot trace"
            )
            # The authors' code has width / length blocks: 768 / 128 = 6.
            modules["attention"] = nn.ModuleList(
                BlockDiagonal(d, length, blocks or max(1, d // length)) for _ in self.layers
            )
        if norms:
            modules["norms"] = nn.ModuleList(
                nn.ModuleList(FiLM(d, d) for _ in layer.norms) for layer in self.layers[depth // 2 :]
            )
        if bottleneck:
            m = max(1, d // 3)
            modules["bottleneck"] = nn.ModuleList([FiLM(d, d), nn.Linear(d, m), zero_linear(m, d)])
        self.shared = nn.ModuleDict(modules)
        self.tasks = facts.task_modules("task vector", lambda _: TaskVector(d))

    def _check_attention(self) -> None:
        """Raise MtlError for an encoder whose layers do not call transformers' attention interface."""
        zero = torch.zeros(1, 1, 1, 1, device=next(self.encoder.parameters()).device)
        was_training = self.encoder.training
        try:
            self.encoder.eval()
            with biased(self.encoder, [zero for _ in self.layers]) as left:
                run_short_text(self.encoder)
        # An encoder that calls its attention more often than it has layers empties the list.
        except (IndexError, RuntimeError):
            left = [zero]
        finally:
            self.encoder.train(was_training)
        # DeBERTa and MPNet never call the interface, and raise no error.
        if left:
            raise MtlError(
                f"architecture.attention: {type(self.encoder).__name__} computes its attention by itself, so its scores cannot be "
                "biased; set architecture.attention=false"
            )

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the hidden states of the modulated encoder."""
        shared: Any = self.shared
        if "attention" not in shared:
            return super().states(task, inputs)
        size = inputs.tokens.shape[1]
        if size > self.length:
            raise MtlError(
                f"architecture.length: a text has {size} tokens; expected at most {self.length}: set it to encoder.max_length"
            )
        z = self._vector(task)
        # The bias is by position, so that a shorter text has its upper left part.
        biases = [layer(z)[None, None, :size, :size] for layer in shared["attention"]]
        with biased(self.encoder, biases):
            return super().states(task, inputs)

    def _vector(self, task: int) -> Tensor:
        shared: Any = self.shared
        tasks: Any = self.tasks
        z: Tensor = shared["vector"](tasks.of(task).vector)
        return z

    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return the modulated embeddings, norms and last layer."""
        shared: Any = self.shared
        z, depth = self._vector(task), len(self.layers)
        inside = False

        def norm(call: Call, output: Tensor) -> Tensor:
            nonlocal inside
            # The norm runs again with another weight, which calls this hook once more.
            if inside or call.depth < depth // 2:
                return output
            weight: Any = call.module.weight
            inside = True
            try:
                modulated = shared["norms"][call.depth - depth // 2][call.index](z, weight)
                # With another weight for this call only, so that gradients reach both the norm's own weight and z.
                result: Tensor = torch.func.functional_call(call.module, {"weight": modulated}, (call.given,))
            finally:
                inside = False
            return result

        def last(call: Call, output: Tensor) -> Tensor:
            if call.depth < depth - 1:
                return output
            film, down, up = shared["bottleneck"]
            added: Tensor = output + up(down(film(z, output)))
            return added

        def align(call: Call) -> Tensor:
            return shared["alignment"](z, call.given) if call.depth == 0 else call.given

        outputs: dict[Any, Any] = {}
        if "norms" in shared:
            outputs["norms"] = norm
        if "bottleneck" in shared:
            outputs["block"] = last
        return outputs, {"block": align} if "alignment" in shared else {}
