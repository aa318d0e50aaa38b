"""What the heads of ordered classes share: one score of a text, where thresholds start, and the predicted class."""

import torch
from torch import Tensor, nn

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.tasks.ranks import Ranks, logit
from mtlcli.tasks.targets import Ragged, Tensors


class RankScore(nn.Module):
    """Compute w . x with one weight vector and no bias, in float32 under autocast too: bf16 rounds a score of 4 to 1/64."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, 1, bias=False)

    def forward(self, encoding: EncoderOutput) -> Tensor:
        """Return the scores (n, 1) float32."""
        with torch.autocast(encoding.pooled.device.type, enabled=False):
            scores: Tensor = self.linear(self.dropout(encoding.pooled.float()))
        return scores


def ranks_of(facts: HeadFacts) -> Ranks:
    """Return the task's target.

    Raises:
        MtlError: it has no ordered classes.
    """
    if not isinstance(facts.task.target, Ranks):
        raise MtlError(
            f"tasks.{facts.task.name}.head: this head predicts ordered classes (kind: ordinal), and the task predicts "
            f"{facts.task.target.describe()}; use another head"
        )
    return facts.task.target


def log_odds_above(target: Ranks) -> list[float]:
    """Return the log-odds of y > k among the training rows (C - 1), those of equal shares for a target that is not fitted."""
    shares = target.above or [1 - (k + 1) / len(target.labels) for k in range(len(target.labels) - 1)]
    return [logit(share) for share in shares]


def decoded(target: Ranks, probabilities: Tensor) -> Tensors:
    """Return the class as `Ranks.decided` does, by tensor operations, which a graph can hold, and the probabilities (n, C)."""
    # On the CPU, because not every device has float64.
    p = probabilities.detach().cpu().double()
    if target.decode == "argmax":
        index = p.argmax(dim=1)
    elif target.decode == "mean":
        numbers = p @ torch.arange(p.shape[1], dtype=p.dtype)
        index = torch.floor(numbers + 0.5).clamp(0, p.shape[1] - 1).long()
    else:
        # Through float64, because the rounding of float32 must not decide a tie of exactly one half.
        index = (1 - p[:, :-1].cumsum(dim=1) > 0.5 + 1e-6).long().sum(dim=1)
    return Ragged({"index": index.to(probabilities.device), "probabilities": probabilities})
