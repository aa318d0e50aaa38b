"""Cross-entropy of classes with the options of a task: class weights, label smoothing, focal loss."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.targets import UNSEEN

SMALLEST = torch.finfo(torch.float32).tiny


def class_loss(logits: Tensor, index: Tensor, settings: ClassLoss, weights: Tensor | None = None) -> Tensor:
    """Return the training loss of each item (m,) float32, 0 where its class is UNSEEN.

    The cross-entropy ``L = -log p_y``, where p is the softmax of the logits and y the class, becomes

    - with label smoothing: ``(1 - epsilon) L + epsilon mean_c(-log p_c)`` (Szegedy et al. 2016, arXiv:1512.00567, section 7);
    - with the focal loss: ``(1 - p_y) ** gamma L`` (Lin et al. 2017, arXiv:1708.02002, equation 4);

    times the weight of y. PyTorch instead weights each term of the smoothed loss by its own class c.

    The sum of these losses is divided by the number of items, not by the sum of their weights as PyTorch's mean does: there, weights
    have no effect in a batch of one class, and micro-batches do not add up to their batch.

    Args:
        logits: (m, C).
        index: (m,) int64.
        settings: options of the task.
        weights: `settings.weights` as a tensor on the device of the logits, which saves copying them in every call.
    """
    logits = logits.float()
    losses = cross_entropy(logits, index, reduction="none", ignore_index=UNSEEN)
    if settings.smoothing:
        # The mean over c of -log p_c, since log p_c = z_c - logsumexp(z).
        uniform = torch.logsumexp(logits, -1) - logits.mean(-1)
        mixed = (1 - settings.smoothing) * losses + settings.smoothing * uniform
        # The uniform term does not depend on the label, so it would give a loss to rows without a known class.
        losses = torch.where(index == UNSEEN, losses, mixed)
    if settings.gamma:
        # The difference 1 - p_y = -expm1(-L) keeps its digits where p_y is near 1. The configuration rejects `focal`
        # together with `label_smoothing`, so L is -log p_y here.
        # Clamped, because the derivative of x ** gamma at 0 is infinite if gamma is below 1.
        wrong = -torch.expm1(-losses)
        losses = wrong.clamp_min(SMALLEST) ** settings.gamma * losses
    if settings.weights is None:
        return losses
    if weights is None:
        weights = torch.tensor(settings.weights, device=logits.device)
    # UNSEEN is -1, which would select the last class. The loss of such an item is 0 under any weight.
    return losses * weights[index.clamp_min(0)]


class ClassOptions(nn.Module):
    """Hold the options of a task for the loss of its classes, which apply in training mode alone.

    A head that holds a module derived from this supports the options `class_weights`, `label_smoothing` and `focal` of its task; a
    task with such an option is rejected for every other head.
    """

    def __init__(self, settings: ClassLoss) -> None:
        super().__init__()
        self.settings = settings
        weights = None if settings.weights is None else torch.tensor(settings.weights)
        # Not in checkpoints, because the configuration and the training rows determine them.
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor | None


class CrossEntropy(ClassOptions):
    """Apply `class_loss` with the options of a task in training mode, and the plain cross-entropy in evaluation mode."""

    def forward(self, logits: Tensor, index: Tensor) -> Tensor:
        """Return the loss of each item (m,) float32 of logits (m, C) and class indices (m,), 0 where the class is UNSEEN."""
        settings = self.settings if self.training else ClassLoss()
        return class_loss(logits, index, settings, self.weights)

    def weight_of(self, index: Tensor) -> Tensor | float:
        """Return the factor (m,) of each item's loss by its class, for a head that adds terms of its own; 1 in evaluation mode."""
        return self.weights[index.clamp_min(0)] if self.weights is not None and self.training else 1.0
