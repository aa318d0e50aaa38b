"""What changes the cross-entropy of a task's classes in training: class weights, label smoothing, focal loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtlcli.errors import MtlError, suggest

LARGEST_WEIGHT = 100.0
"""Largest weight that `balanced_weights` gives to a class: a single row should not outweigh a whole batch."""


@dataclass(frozen=True)
class ClassLoss:
    """Settings of the cross-entropy of a task's C classes. They apply in training only; the loss on dev is plain.

    Attributes:
        weights: (C,) factor of the loss of an item by its class; None: 1 for every class.
        smoothing: epsilon of label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7).
        gamma: exponent of the focal loss (Lin et al. 2017, arXiv:1708.02002, equation 4); 0: cross-entropy.
        mean_weight: mean class weight of the items that training draws, 1 with balanced weights.
    """

    weights: tuple[float, ...] | None = None
    smoothing: float = 0.0
    gamma: float = 0.0
    mean_weight: float = 1.0

    @property
    def is_plain(self) -> bool:
        """Return whether the loss is the plain cross-entropy."""
        return self.weights is None and not self.smoothing and not self.gamma

    def scale(self, classes: int) -> float:
        """Return the loss of a uniform guess over C classes, divided by log C.

        Label smoothing does not change it. The focal loss multiplies it by ``(1 - 1 / C) ** gamma``.
        """
        focal = (1 - 1 / classes) ** self.gamma if self.gamma else 1.0
        return float(self.mean_weight * focal)

    def floor(self, classes: int) -> float:
        """Return the smallest mean loss: the entropy of a smoothed label over C classes, 0 without label smoothing."""
        if not self.smoothing:
            return 0.0
        other = self.smoothing / classes
        gold = 1 - self.smoothing + other
        return self.mean_weight * -(gold * math.log(gold) + (classes - 1) * other * math.log(other))


def balanced_weights(counts: np.ndarray, *, root: bool = False) -> np.ndarray:
    """Return the weight of each class (C,), inversely proportional to its items: n / (C n_c), as in scikit-learn.

    Then ``sum_c n_c w_c == n``: the mean weight of an item is 1, so that the loss keeps its scale. Weights above LARGEST_WEIGHT are
    set to it, and the other weights are raised so that this still holds.

    Args:
        counts: (C,) items of each class. A class without items has weight 0 and is not counted in C.
        root: inversely proportional to the square root of the items instead.
    """
    occurs = counts > 0
    items = np.where(occurs, counts, 1).astype(np.float64)
    weights = np.where(occurs, 1 / (np.sqrt(items) if root else items), 0.0)
    is_capped = np.zeros(len(counts), dtype=bool)
    # Raising the other weights can bring a further class to the limit. Each round adds a class to the capped ones or
    # returns.
    while True:
        free = occurs & ~is_capped
        # Above 0, because the products n_c w_c sum to n, and that of a capped class was above LARGEST_WEIGHT n_c.
        rest = counts.sum() - LARGEST_WEIGHT * counts[is_capped].sum()
        weights[free] *= rest / (counts[free] @ weights[free])
        if not (weights[free] > LARGEST_WEIGHT).any():
            return weights
        is_capped |= weights > LARGEST_WEIGHT
        weights[is_capped] = LARGEST_WEIGHT


def weights_by_name(weights: Mapping[str, float], labels: Sequence[str], where: str) -> np.ndarray:
    """Return the weight of each class (C,) from weights by name; 1 for the other classes.

    Raises:
        MtlError: a name is no class. `where` names the option.
    """
    unknown = [f'{where}: no class "{name}"{suggest(name, labels)}' for name in weights if name not in labels]
    if unknown:
        raise MtlError(*unknown)
    return np.array([weights.get(label, 1.0) for label in labels], dtype=np.float64)
