"""From token vectors to one vector a text."""

import torch
from torch import Tensor


def pool(tokens: Tensor, mask: Tensor | None, kind: str) -> Tensor:
    """tokens (n, length, dim), mask (n, length) True at tokens or None -> (n, dim).

    `cls` is the first token, `mean` and `max` run over the real tokens only. Padding never counts.
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
            return tokens.masked_fill(~mask.unsqueeze(-1), torch.finfo(tokens.dtype).min).amax(1)
    raise ValueError(f"no pooling {kind!r}")
