"""Binary cross-entropy of sets of labels with the options of a task: class weights, label smoothing, focal loss."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mtlcli.heads.cross_entropy import ClassOptions
from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.label_sets import UNKNOWN


def label_loss(logits: Tensor, sets: Tensor, settings: ClassLoss, weights: Tensor | None = None) -> Tensor:
    """Return the training loss of each row (n,) float32: the mean over its known labels, 0 for a row without any.

    The loss of a label with logit z is ``y L(1) + (1 - y) L(0)``, where ``L(1) = softplus(-z)`` and ``L(0) = softplus(z)`` are the
    binary cross-entropy, and y is 1 where the label holds, 0 where it does not, or a teacher's probability. The options change it:

    - class weights w: ``L(1)`` times the label's weight, which is `pos_weight` of PyTorch's BCEWithLogitsLoss;
    - label smoothing: ``(1 - epsilon) y + epsilon / 2`` in place of y;
    - the focal loss: ``(1 - p) ** gamma L(1)`` and ``p ** gamma L(0)`` with p the sigmoid of z (Lin et al. 2017, arXiv:1708.02002,
      equation 4). Its alpha, there .25, is a class weight: alpha / (1 - alpha), up to a factor of the whole loss.

    Args:
        logits: (n, C).
        sets: (n, C) of any dtype, UNKNOWN for an unknown label.
        settings: options of the task.
        weights: `settings.weights` as a tensor on the device of the logits, which saves copying them in every call.
    """
    logits = logits.float()
    is_known = sets != UNKNOWN
    holds = torch.where(is_known, sets, torch.zeros_like(sets)).float()
    if settings.smoothing:
        holds = (1 - settings.smoothing) * holds + settings.smoothing / 2
    # Softplus of the logit, because the logarithm of a sigmoid is infinite where the sigmoid rounds to 0 or 1.
    positive, negative = softplus(-logits), softplus(logits)
    if settings.gamma:
        # 1 - p is exp(-softplus(z)), and p is exp(-softplus(-z)): no power of a number that can be 0.
        focused = positive * torch.exp(-settings.gamma * negative)
        positive, negative = focused, negative * torch.exp(-settings.gamma * positive)
    if settings.weights is not None:
        positive = positive * (torch.tensor(settings.weights, device=logits.device) if weights is None else weights)
    losses = (holds * positive + (1 - holds) * negative) * is_known
    # A mean, because a sum over hundreds of labels would outweigh the losses of other tasks. The clamp is for a row of
    # unknown labels.
    return losses.sum(-1) / is_known.sum(-1).clamp_min(1)


class BinaryCrossEntropy(ClassOptions):
    """Apply `label_loss` with the options of a task in training mode, and the plain binary cross-entropy in evaluation mode."""

    def forward(self, logits: Tensor, sets: Tensor) -> Tensor:
        """Return the loss of each row (n,) float32 of logits (n, C) and gold sets (n, C)."""
        settings = self.settings if self.training else ClassLoss()
        return label_loss(logits, sets, settings, self.weights if self.training else None)
