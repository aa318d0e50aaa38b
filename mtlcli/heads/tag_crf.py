"""Tags by a linear-chain conditional random field (Lafferty, McCallum and Pereira, ICML 2001) on word vectors
(Lample et al., NAACL 2016, arXiv:1603.01360)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.tag_linear import WordVector, items_of, sum_by_row, tags_of
from mtlcli.tasks.items import Items
from mtlcli.tasks.schemes import best_tags
from mtlcli.tasks.targets import Ragged, Tensors

FORBIDDEN = -1e4
"""Score of what the scheme does not allow. Minus infinity would give NaN gradients where no path is left."""


class TagCRF(Head):
    """Score whole sequences of tags: `score(y) = s[y_1] + sum_i e_i[y_i] + sum_i A[y_{i-1}, y_i] + t[y_T]`.

    The emissions e (T, C) are a linear layer of the word vectors; A, s and t are learned from 0, where the loss per word is that of
    `tag-linear`. The loss of a sentence is `log Z - score(gold)`, summed over its words' share: its units are its words with a tag.
    Words without a tag are summed out. What the scheme does not allow has a score of -10,000 in training and decoding. The recursion
    runs in float32, since bfloat16 is off by more than the loss of a long sentence.

    Decoding is Viterbi's algorithm; the probabilities are the marginals of each word. From a teacher's probabilities p it learns by
    the cross-entropy of the marginals, -sum_c p_c log q_c for each word (posterior distillation, Wang et al., ACL 2020,
    arXiv:2004.03846); what p gives to tags that cannot stand at a place goes to the others.
    """

    items = "words"
    own_loss = True

    def __init__(
        self,
        facts: HeadFacts,
        *,
        word: WordVector = "first",
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of a word's vector zeroed in training")] = 0.1,
    ) -> None:
        super().__init__(facts)
        self.target = tags_of(facts)
        self.word = word
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(facts.dim, facts.outputs)
        size = facts.outputs
        self.transitions = nn.Parameter(torch.zeros(size, size))
        self.begin, self.end = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))
        structure = self.target.structure
        for name, allowed in (("begin", structure.begin), ("end", structure.end), ("follow", structure.follow)):
            # Not in checkpoints, because the tags and their scheme determine it.
            self.register_buffer(
                f"{name}_barrier", torch.where(torch.from_numpy(allowed), 0.0, FORBIDDEN), persistent=False
            )

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return emissions (m, tags) of the m words of all rows."""
        vectors = items_of(encodings[0]).gather(encodings[0].tokens, self.word)
        emissions: Tensor = self.out(self.dropout(vectors))
        return emissions

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return log Z minus the log of the summed scores of all sequences with the gold tags (n,).

        Under a teacher's `probabilities` (m, C) it is the cross-entropy of the marginals, summed over each row's words.
        """
        if gold.starts is None:
            raise ValueError("tags of no words")
        if "probabilities" in gold:
            return self._soft_loss(output, gold["probabilities"], gold)
        with torch.autocast(output.device.type, enabled=False):
            emissions = output.float()
            known = self.target.known(gold)
            # `scatter_` needs valid indices. The mask of unknown words in the next lines removes the effect of the 0.
            tags = torch.where(known, gold["tag"], 0)
            # A word with a tag can have no other one; a word without any can have all.
            other = torch.ones_like(emissions, dtype=torch.bool).scatter_(1, tags.unsqueeze(1), False)
            clamped = emissions.masked_fill(other & known.unsqueeze(1), FORBIDDEN)
            partition = self._log_sum(emissions, gold.starts) - self._log_sum(clamped, gold.starts)
            # Without a tag both sums are the same, and their difference is rounding.
            counts = torch.cat([known.new_zeros(1, dtype=torch.int64), known.long().cumsum(0)])
            has_tags = counts[gold.starts[1:]] > counts[gold.starts[:-1]]
            return torch.where(has_tags, partition, 0.0)

    def _soft_loss(self, output: Tensor, shares: Tensor, rows: Tensors) -> Tensor:
        if rows.starts is None:
            raise ValueError("tags of no words")
        with torch.autocast(output.device.type, enabled=False):
            logs = self._log_marginals(output.float(), rows.starts)
            # Log-probabilities near FORBIDDEN belong to tags that the scheme does not allow at this word.
            possible = logs > FORBIDDEN / 2
            shares = torch.where(possible, shares.to(logs), 0.0)
            # The sum is 0 if the teacher gives everything to such tags; the word then has the loss 0.
            shares = shares / shares.sum(-1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
            return sum_by_row(-(shares * torch.where(possible, logs, 0.0)).sum(-1), rows)

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the best sequences and the marginals of each word."""
        if items is None:
            raise ValueError("tags of no words")
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            emissions = output.float()
            probabilities = self._log_marginals(emissions, items.starts).exp()
        tags = best_tags(
            emissions.cpu().numpy(), items.starts.cpu().numpy(), self.target.structure,
            self.transitions.detach().cpu().numpy(), self.begin.detach().cpu().numpy(), self.end.detach().cpu().numpy(),
        )  # fmt: skip
        return Ragged({"tag": torch.from_numpy(tags), "probabilities": probabilities.cpu()}, items.starts.cpu())

    def why_no_graph(self) -> str:
        """Return that Viterbi's algorithm goes from word to word."""
        return "it searches the best sequence of tags word by word"

    def _scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of transitions, beginnings and ends, with those that the scheme forbids."""
        barriers = (self.get_buffer(f"{name}_barrier") for name in ("follow", "begin", "end"))
        follow, begin, end = (
            parameter.float() + barrier
            for parameter, barrier in zip((self.transitions, self.begin, self.end), barriers, strict=True)
        )
        return follow, begin, end

    def _log_sum(self, emissions: Tensor, starts: Tensor) -> Tensor:
        """Return log Z of each row (n,), by the forward recursion; 0 for a row without words."""
        padded, lengths = _padded(emissions, starts)
        follow, begin, end = self._scores()
        # Alpha (n, C) is the logarithm of the summed scores of all beginnings of a row that end with each tag.
        alpha = begin + padded[:, 0]
        for step in range(1, padded.shape[1]):
            following = padded[:, step] + torch.logsumexp(alpha.unsqueeze(2) + follow, dim=1)
            # A finished row keeps its alpha, so that the end scores apply to its own last word.
            alpha = torch.where((lengths > step).unsqueeze(1), following, alpha)
        return torch.where(lengths > 0, torch.logsumexp(alpha + end, dim=1), 0.0)

    def _log_marginals(self, emissions: Tensor, starts: Tensor) -> Tensor:
        """Return the log-probability of each tag of each word (m, C), by the forward-backward recursion."""
        padded, lengths = _padded(emissions, starts)
        follow, begin, end = self._scores()
        steps = padded.shape[1]
        # Behind the end of a row, `forward` goes on over padding, which is not read.
        forward = [begin + padded[:, 0]]
        for step in range(1, steps):
            forward.append(padded[:, step] + torch.logsumexp(forward[-1].unsqueeze(2) + follow, dim=1))
        # Every row starts from the end scores at its own last word. The list repeats one tensor, so entries are
        # replaced and never modified in place.
        backward = [end.expand(len(padded), -1)] * steps
        for step in range(steps - 2, -1, -1):
            earlier = torch.logsumexp(follow + (padded[:, step + 1] + backward[step + 1]).unsqueeze(1), dim=2)
            backward[step] = torch.where((lengths > step + 1).unsqueeze(1), earlier, backward[step])
        scores = torch.stack(forward, dim=1) + torch.stack(backward, dim=1)
        return torch.log_softmax(scores[_inside(lengths, steps)], dim=-1)


def _padded(emissions: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return emissions (n, T, C) with 0 behind the last word of a row, and the words of each row (n,)."""
    lengths = starts.diff()
    # At least one step, because the recursions read the first one even if all rows are empty.
    steps = max(1, int(lengths.max())) if len(lengths) else 1
    padded = emissions.new_zeros(len(lengths), steps, emissions.shape[-1])
    padded[_inside(lengths, steps)] = emissions
    return padded, lengths


def _inside(lengths: Tensor, steps: int) -> Tensor:
    """Return which places of padded rows are words (n, T)."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(1)
