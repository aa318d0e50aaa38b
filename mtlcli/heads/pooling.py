"""Pooling: from token vectors to one vector for each text."""

import torch
from torch import Tensor


def pool(tokens: Tensor, mask: Tensor | None, kind: str) -> Tensor:
    """Return one vector for each text (n, dim).

    Args:
        tokens: (n, length, dim).
        mask: (n, length), True at tokens; None: there is no padding.
        kind: `cls` for the first token, `mean` or `max` over the tokens without padding.
    """
    match kind:
        case "cls":
            return tokens[:, 0]
        case "mean":
            if mask is None:
                return tokens.mean(1)
            weight = mask.unsqueeze(-1).to(tokens.dtype)
            return (tokens * weight).sum(1) / weight.sum(1)
        case "max":
            if mask is None:
                return tokens.amax(1)
            # The lowest finite number instead of -inf, so that a text without tokens has a finite maximum.
            return tokens.masked_fill(~mask.unsqueeze(-1), torch.finfo(tokens.dtype).min).amax(1)
    raise ValueError(f"no pooling {kind!r}")
