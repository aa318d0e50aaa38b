"""Prompt tuning: Lester et al., EMNLP 2021, arXiv 2104.08691; ATTEMPT: Asai et al., EMNLP 2022, arXiv 2205.11961; MPT: Wang et al.,
ICLR 2023, arXiv 2303.02861."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.base import (
    ArchitectureFacts,
    HiddenStates,
    Inputs,
    run_encoder,
)
from mtlcli.architectures.modular import OnBackbone
from mtlcli.architectures.options import Backbone, Per, Rate
from mtlcli.errors import MtlError


class Prompt(nn.Module):
    """Hold n learned word vectors."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.prompt = nn.Parameter(start)


class Factors(nn.Module):
    """Hold the factors u (n,) and v (dim,) of a task's prompt, one before step 1."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.ones(length)), nn.Parameter(torch.ones(dim))


class Attention(nn.Module):
    """Weigh prompts for each text: ``softmax_j(max(P_j) . LN(W_up silu(W_down x)) / temperature)``, x the maximum over its words."""

    def __init__(self, dim: int, width: int, temperature: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dim, width, bias=False), nn.Linear(width, dim, bias=False)
        self.norm, self.temperature = nn.LayerNorm(dim), temperature

    def forward(self, words: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
        """Return weights (texts, prompts) for words (texts, length, dim), mask (texts, length) and prompts (prompts, n, dim)."""
        # The paper's code also takes the maximum over padding.
        text = words.masked_fill(~mask.unsqueeze(-1), -math.inf).amax(1)
        query = self.norm(self.up(nn.functional.silu(self.down(text))))
        weights: Tensor = (query @ prompts.amax(1).T / self.temperature).float().softmax(-1)
        return weights


class PromptTuning(OnBackbone):
    """Put learned word vectors of the task before every text of a frozen encoder.

    Their states are cut off before heads read the others. Words keep their own positions, and the prompt has the first one;
    which positions an encoder needs is found with a masked prompt, which must leave the words' states as they are.

    * ``plain``: n vectors P_t. `per: both` adds shared ones and the task's.
    * ``mpt``: ``P_t = P * (u_t v_t')`` with P shared by the tasks (section 3.1 of MPT, rank 1). u and v start at 1.
    * ``attempt``: ``P_t + sum_j a_j P_j`` for each text, over the prompts P_j of other runs (`sources`), which stay as they are, and P_t
      itself (section 3 of ATTEMPT); the attention is shared by the tasks.

    Prompts start as random words of the encoder's vocabulary.

    Parameters: n d for each task (mpt n + d, and n d shared; attempt n d, and 2 w d + 2 d shared).

    Differences from the papers: MPT also distills the shared prompt from those of single tasks; ATTEMPT starts a target's
    prompt from the most similar source. Encoders of BERT's size stay below fine-tuning.
    """

    decay = False

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        form: Annotated[
            Literal["plain", "mpt", "attempt"], Field(description="how the prompt is made, see the class")
        ] = "plain",
        length: Annotated[int, Field(ge=1, description="number n of vectors")] = 20,
        per: Per = "task",
        sources: Annotated[
            dict[str, str],
            Field(description="for attempt: runs whose prompts to read, by the task's name there: {sst: RUN}"),
        ] = {},  # noqa: B006
        width: Annotated[int, Field(ge=1, description="for attempt: inner width w of the attention")] = 100,
        temperature: Annotated[
            float | None,
            Field(gt=0, description="for attempt: temperature; by default e times the width of word vectors"),
        ] = None,
        backbone: Backbone = "frozen",
        lr: Rate = 0.3,
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone)
        self.form, self.length = form, length
        if sources and form != "attempt":
            raise MtlError(
                f"architecture.sources: {form} reads no other prompts; set architecture.form=attempt, or remove them"
            )
        if per != "task" and form != "plain":
            raise MtlError(f"architecture.per: {form} has shared parts of its own; remove per")
        words: Any = facts.encoder.get_input_embeddings()  # type: ignore[operator]
        vocabulary, dim = words.weight.shape
        self.sources = dict(sources)

        def start() -> Tensor:
            chosen: Tensor = words.weight.detach()[torch.randint(vocabulary, (length,))].float().cpu()
            return chosen.clone()

        self.read: Tensor
        if form == "mpt":
            self.shared = Prompt(start())
            self.tasks = facts.task_modules("factors", lambda _: Factors(length, dim))
        else:
            self.add_modules(facts, per, lambda: Prompt(start()))
        if form == "attempt":
            # The paper's code sets 2,087 for a width of 768, which is e times the width.
            self.shared = Attention(dim, width, temperature or math.e * dim)
            # A buffer, so that a finished run holds the prompts and does not need the runs they came from.
            self.register_buffer("read", torch.zeros(len(sources), length, dim))
        self.first_position = self._find_first_position()

    def _find_first_position(self) -> int | None:
        """Return the position number of a text's first word; None for an encoder that needs none.

        Raises:
            MtlError: a prompt changes the words' states whatever the positions.
        """
        encoder = self.encoder
        device = next(encoder.parameters()).device
        tokens = torch.arange(5, 12, device=device).unsqueeze(0)
        plain = Inputs(tokens, torch.ones_like(tokens, dtype=torch.bool), None)
        # First without positions: encoders with relative ones need none, and some do not accept them.
        candidates: list[int | None] = [None]
        if "position_ids" in inspect.signature(encoder.forward).parameters:
            # RoBERTa and its kin count from the index of padding in a table, which MPNet's configuration does not state.
            tables = [module for module in encoder.modules() if isinstance(module, nn.Embedding)]
            starts = {table.padding_idx + 1 for table in tables if table.padding_idx is not None}
            candidates += [0, *sorted(starts - {0})]
        prompt = torch.zeros(1, self.length, encoder.get_input_embeddings().weight.shape[1], device=device)  # type: ignore[operator]
        was_training = encoder.training
        try:
            encoder.eval()
            # Nothing attends to a masked prompt, so only wrong positions can change the states of the words.
            with torch.no_grad():
                expected = run_encoder(encoder, plain).last
                for first in candidates:
                    try:
                        hidden = self._run(prompt, plain, first, visible=False)
                    except (IndexError, RuntimeError):
                        continue  # more vectors than the encoder has positions
                    # A longer sequence is summed in another order, so equal positions give equal states up to rounding.
                    if torch.allclose(hidden.last, expected, atol=1e-4):
                        return first
        finally:
            encoder.train(was_training)
        raise MtlError(
            f"architecture: {type(encoder).__name__} gives words other states behind a masked prompt, whatever their positions"
        )

    def _run(self, prompt: Tensor, inputs: Inputs, first: int | None, *, visible: bool = True) -> HiddenStates:
        """Run the encoder on a prompt (1 or n, length, dim) and the texts, and return the states of the texts."""
        encoder: Any = self.encoder
        tokens = inputs.tokens
        n, length = tokens.shape
        size = prompt.shape[1]
        words = encoder.get_input_embeddings()(tokens) if inputs.embeddings is None else inputs.embeddings
        # Before the text, because a causal encoder reads only what stands before a word.
        before = torch.full((n, size), visible, dtype=torch.bool, device=tokens.device)
        mask = torch.cat((before, inputs.full_mask), dim=1)
        types = inputs.types
        if types is None and getattr(encoder.config, "type_vocab_size", False):
            types = torch.zeros_like(tokens)  # BERT's own are no longer than its positions
        positions = None
        if first is not None:
            # All vectors of the prompt share the first position, so that the text needs no more positions than alone.
            own = torch.arange(length, device=tokens.device) if inputs.positions is None else inputs.positions - first
            positions = first + torch.cat(
                (torch.zeros(n, size, dtype=torch.long, device=tokens.device), own.expand(n, length)), 1
            )
        hidden = run_encoder(
            encoder,
            replace(
                inputs,
                embeddings=torch.cat((prompt.to(words.dtype).expand(n, -1, -1), words), dim=1),
                mask=mask,
                types=None if types is None else torch.cat((types.new_zeros(n, size), types), dim=1),
                positions=positions,
            ),
        )
        # Cut off, because masks and items of a batch count the tokens of the texts alone.
        return HiddenStates(hidden.last[:, size:], tuple(layer[:, size:] for layer in hidden.layers))

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the hidden states of the texts behind the task's prompt."""
        return self._run(self._prompt(task, inputs), inputs, self.first_position)

    def _prompt(self, task: int, inputs: Inputs) -> Tensor:
        """Return the prompt (1 or n, length, dim) of a task."""
        shared: Any = self.shared
        encoder: Any = self.encoder
        own: Any = None if self.tasks is None else self.tasks.of(task)
        if self.form == "mpt":
            prompt: Tensor = shared.prompt * torch.outer(own.u, own.v)
            return prompt.unsqueeze(0)
        if self.form == "attempt":
            # Perturbed embeddings of a regularizer take the place of the words here too.
            words = encoder.get_input_embeddings()(inputs.tokens) if inputs.embeddings is None else inputs.embeddings
            prompts = torch.cat((self.read, own.prompt.unsqueeze(0)))
            # The softmax is over the sources and the task's own prompt, as in the paper's code.
            weights = shared(words, inputs.full_mask, prompts)
            mixed: Tensor = own.prompt + torch.einsum("ns,sld->nld", weights.to(prompts.dtype), prompts)
            return mixed
        parts = [part.prompt for part in (shared, own) if part is not None]
        return torch.stack(parts).sum(0).unsqueeze(0)

    def start(self, tensors_of: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Read the prompts of the runs that `sources` names."""
        for index, (name, run) in enumerate(self.sources.items()):
            prompt = tensors_of(run).get(f"tasks.for_{name}.prompt")
            if prompt is None:
                raise MtlError(
                    f"architecture.sources: {run} has no prompt of {name}; expected a run of the architecture prompt"
                )
            if prompt.shape != self.read[index].shape:
                shape, expected = tuple(prompt.shape), tuple(self.read[index].shape)
                raise MtlError(f"architecture.sources: the prompt of {name} in {run} is {shape}; expected {expected}")
            self.read[index].copy_(prompt)

    @classmethod
    def compares(cls, options: Mapping[str, Any]) -> bool:
        """Return whether the encoder or a part of the prompts is trained for all tasks."""
        return super().compares(options) or options.get("form", "plain") != "plain"
