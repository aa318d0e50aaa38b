"""The part of the contract of heads about class weights, label smoothing and focal loss."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mtlcli.heads.base import Head, HeadFacts
from mtlcli.heads.cross_entropy import ClassOptions
from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.targets import Tensors
from mtlcli.testing.common import close, expect, finite, numbers


def check_class_options(
    name: str, head: Head, make: Callable[[HeadFacts], Head], facts: HeadFacts, output: Tensor, gold: Tensors
) -> None:
    """Check a head that supports the options of its task's classes: in training alone, the loss has the weights of classes.

    Args:
        name: the head and its task, for messages.
        head: the head without such options.
        make: builds the head for other facts.
        output: of the head for some rows.
        gold: labels of these rows.
    """
    if not any(isinstance(module, ClassOptions) for module in head.modules()):
        return
    expect(not head.own_loss, f"{name}: holds a loss with class options; expected own_loss to be False")

    def losses(*weights: float, training: bool = True) -> Tensor:
        settings = ClassLoss(weights or None)
        other = make(replace(facts, task=replace(facts.task, class_loss=settings)))
        other.load_state_dict(head.state_dict())
        result: Tensor = other.train(training).loss(output, gold)
        return result

    with torch.inference_mode():
        classes = facts.task.target.outputs()
        # Dev losses have to be comparable between runs with different class options.
        plain, evaluated = losses(training=False), losses(*range(classes), training=False)
        expect(
            close(evaluated, plain),
            f"{name}: in evaluation mode, expected the losses {numbers(plain)} whatever the class weights; found {numbers(evaluated)}",
        )
        if "set" in gold:
            _check_weights_of_labels(name, losses, classes, gold)
            return
        expected, doubled = 2 * losses(), losses(*[2.0] * classes)
        expect(
            close(doubled, expected),
            f"{name}: in training, expected the losses {numbers(expected)} with all class weights at 2; found {numbers(doubled)}",
        )
        if "index" in gold and gold.starts is None:
            # The weights are 0, 1, 2, ..., so only the first class has no loss.
            weighted, has_weight = losses(*range(classes)), gold["index"] > 0
            expect(
                finite(weighted) and not bool(weighted[~has_weight].any()) and bool((weighted[has_weight] > 0).all()),
                f"{name}: in training, expected a loss of 0 in rows of the class with weight 0 alone; found {numbers(weighted)}",
            )


def _check_weights_of_labels(name: str, losses: Callable[..., Tensor], classes: int, gold: Tensors) -> None:
    """Check that weights are factors where a label holds, and that they change nothing elsewhere."""
    plain, ones, twos = losses(), losses(*[1.0] * classes), losses(*[2.0] * classes)
    expect(
        close(ones, plain) and torch.equal(twos > ones, (gold["set"] == 1).any(-1)),
        f"{name}: in training, expected the losses {numbers(plain)} with all class weights at 1, and larger ones in rows with a label "
        f"with all at 2; found {numbers(ones)} and {numbers(twos)}",
    )
