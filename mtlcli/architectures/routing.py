"""Routers of sparse mixtures: the weights of the chosen experts, and the loss that keeps all experts in use."""

import torch
from torch import Tensor


def top_weights(probabilities: Tensor, top: int) -> Tensor:
    """Return the `top` largest probabilities (..., experts), 0 elsewhere.

    They are rescaled to a sum of 1, but for a single one: its weight would be 1 whatever the router says, and teach it nothing.
    """
    if top == probabilities.shape[-1]:
        return probabilities
    values, chosen = probabilities.topk(top, dim=-1)
    if top > 1:
        values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(-1, chosen, values)


def balance(probabilities: Tensor, top: int) -> Tensor:
    """Return ``E sum_e f_e P_e`` for probabilities (choices, experts) of E experts, 1 if all are used alike by choices of one.

    f_e is the share of the choices among whose `top` experts e is, so these shares add up to `top`; P_e is the mean probability.
    """
    experts = probabilities.shape[-1]
    chosen = probabilities.topk(top, dim=-1).indices
    # Counts have no gradient: the router learns from the mean probabilities alone.
    shares = torch.zeros_like(probabilities).scatter(-1, chosen, 1.0).mean(0)
    return experts * (shares * probabilities.mean(0)).sum()
