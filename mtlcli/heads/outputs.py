"""From the numbers of a head to losses and predictions, for each target that plain heads can predict."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.binary_cross_entropy import BinaryCrossEntropy
from mtlcli.heads.cross_entropy import CrossEntropy
from mtlcli.heads.rank_scores import decoded
from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.targets import Classes, Distributions, LabelSets, Ragged, Ranks, Score, Tensors


class Output(ABC):
    """Loss and decoding that most heads share: a head computes `HeadFacts.outputs` numbers a row, and this does the rest."""

    @abstractmethod
    def shaped(self, numbers: Tensor) -> Tensor:
        """Return the numbers (n, outputs) of a last layer as the head's output."""

    @abstractmethod
    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the loss of each row (n,) float32, 0 where its label is unknown."""

    @abstractmethod
    def decode(self, output: Tensor) -> Tensors:
        """Return predictions in the units of the data."""

    def weight_of(self, gold: Tensors) -> Tensor | float:
        """Return the factor (n,) that `loss` puts on each row, for terms that a head adds to it."""
        return 1.0


class ClassOutput(Output, nn.Module):
    """Cross-entropy of logits (n, classes), in training with the options of the task.

    A module, so that it knows whether its head is in training mode.
    """

    def __init__(self, settings: ClassLoss) -> None:
        super().__init__()
        self.cross_entropy = CrossEntropy(settings)

    def shaped(self, numbers: Tensor) -> Tensor:
        """Return the logits as they are."""
        return numbers

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy."""
        losses: Tensor = self.cross_entropy(output, gold["index"])
        return losses

    def decode(self, output: Tensor) -> Tensors:
        """Return the softmax and its largest class."""
        probabilities = torch.softmax(output.float(), dim=-1)
        return Ragged({"index": probabilities.argmax(-1), "probabilities": probabilities})

    def weight_of(self, gold: Tensors) -> Tensor | float:
        """Return the weight of each row's class."""
        return self.cross_entropy.weight_of(gold["index"])


class RankOutput(ClassOutput):
    """Cross-entropy of logits (n, classes), decoded in the order of the classes."""

    def __init__(self, settings: ClassLoss, target: Ranks) -> None:
        super().__init__(settings)
        self.target = target

    def decode(self, output: Tensor) -> Tensors:
        """Return the softmax and its class, see `Ranks.decode`."""
        return decoded(self.target, torch.softmax(output.float(), dim=-1))


class DistributionOutput(Output):
    """KL divergence of the softmax of logits (n, classes) from the label: 0 is perfect, whatever the label's entropy."""

    def shaped(self, numbers: Tensor) -> Tensor:
        """Return the logits as they are."""
        return numbers

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return sum_c q_c (log q_c - log p_c) (n,), 0 where the label is unknown."""
        q = gold["probabilities"].float()
        # Unlike 0 * log(0), xlogy(0, 0) is 0 and not NaN.
        divergence = (torch.xlogy(q, q) - q * torch.log_softmax(output.float(), dim=-1)).sum(-1)
        # The predictions of a teacher have no `known`, because they are complete.
        return divergence * gold["known"] if "known" in gold else divergence

    def decode(self, output: Tensor) -> Tensors:
        """Return the softmax and its largest class."""
        probabilities = torch.softmax(output.float(), dim=-1)
        return Ragged({"index": probabilities.argmax(-1), "probabilities": probabilities})


class LabelSetOutput(Output, nn.Module):
    """Binary cross-entropy of logits (n, labels), one sigmoid for each label, in training with the options of the task."""

    def __init__(self, target: LabelSets, settings: ClassLoss) -> None:
        super().__init__()
        self.target = target
        self.cross_entropy = BinaryCrossEntropy(settings)

    def shaped(self, numbers: Tensor) -> Tensor:
        """Return the logits as they are."""
        return numbers

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the binary cross-entropy, the mean over the known labels of each row."""
        losses: Tensor = self.cross_entropy(output, gold["set"])
        return losses

    def decode(self, output: Tensor) -> Tensors:
        """Return the sigmoids, and the labels whose threshold they reach."""
        # On the CPU, because not every device has float64.
        probabilities = torch.sigmoid(output.detach().float()).cpu()
        # In float64, as `LabelSets.decide` compares them; by tensor operations, which a graph can hold.
        holds = probabilities.double() >= torch.tensor(self.target.levels, dtype=torch.float64)
        return Ragged({"set": holds.to(torch.uint8), "probabilities": probabilities})


@dataclass(frozen=True)
class ScoreOutput(Output):
    """Squared error of a score in standard deviations of the training rows, so that the mean costs 1 in any units of the file.

    The output (n,) counts standard deviations from the training mean. With `gamma` below 1 the loss is
    gamma * e^2 + (1 - gamma) * |e| of the same error e.
    """

    target: Score
    gamma: float = 1.0

    def shaped(self, numbers: Tensor) -> Tensor:
        """Return the one number of each row (n,)."""
        return numbers.squeeze(-1)

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the loss of the error against the standardized score."""
        # Standardized before the conversion to float32, in which a large offset of the scores would cost digits.
        standardized = ((gold["value"] - self.target.mean) / self.target.std).float()
        return self.error_loss(output.float() - standardized, gold)

    def error_loss(self, error: Tensor, gold: Tensors) -> Tensor:
        """Return the loss of errors (n,) in standard deviations."""
        loss = error**2
        if self.gamma != 1.0:
            loss = self.gamma * loss + (1 - self.gamma) * error.abs()
        # `known` is absent where every row of the batch has a score, and in the predictions of a teacher.
        return loss * gold["known"] if "known" in gold else loss

    def decode(self, output: Tensor) -> Tensors:
        """Return scores in the units of the data, clamped to the range of the task."""
        return self.clamped(output.double() * self.target.std + self.target.mean)

    def clamped(self, scores: Tensor) -> Tensors:
        """Return scores (n,) as predictions."""
        return Ragged({"value": scores.clamp(*self.target.range)})


def output_for(task: TaskFacts, gamma: float = 1.0) -> Output:
    """Return loss and decoding for what a task predicts.

    Raises:
        MtlError: plain heads cannot predict this target, or `gamma`, which mixes losses of scores, is set for another target.
    """
    where = f"tasks.{task.name}.head"
    # Distributions and Ranks come before Classes, from which they are derived.
    match task.target:
        case Score():
            return ScoreOutput(task.target, gamma)
        case Distributions() if gamma == 1.0:
            return DistributionOutput()
        case Ranks() if gamma == 1.0:
            return RankOutput(task.class_loss, task.target)
        case Classes() if gamma == 1.0:
            return ClassOutput(task.class_loss)
        case LabelSets() if gamma == 1.0:
            return LabelSetOutput(task.target, task.class_loss)
        case Classes() | LabelSets():
            raise MtlError(f"{where}.gamma: mixes losses of scores, and this task predicts classes; remove it")
    raise MtlError(
        f"{where}: this head predicts classes, sets of labels or scores, and the task {task.target.describe()}; use another head"
    )
