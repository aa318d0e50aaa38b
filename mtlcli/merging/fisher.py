"""The diagonal of the Fisher information of a run's encoder, estimated on training rows (Matena and Raffel 2022, arXiv:2111.09832).

F = E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta)^2. Each row is a batch of its own, because the square of a
gradient that is summed over rows is another quantity.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mtlcli.data.batches import Batch, collate
from mtlcli.errors import MtlError
from mtlcli.facts import seed_for
from mtlcli.merging.rows import TaskRows
from mtlcli.model.multitask import MultiTaskModel

MOST_CLASSES = 10
"""Most classes for which the expectation over labels is exact; with more, or with several items in a row, labels are drawn."""


def fisher_information(
    model: MultiTaskModel, tasks: Mapping[str, TaskRows], *, rows: int, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """Return the mean information of each encoder parameter by name, divided by the mean over all parameters.

    The division, which the paper does not have, makes the information of different tasks comparable: that of a score depends on its
    unit, and that of classes falls as the run becomes sure of them.

    Args:
        rows: most training rows of each task, which are drawn without replacement.

    Raises:
        MtlError: the information is 0 or not finite: no task's output depends on the encoder, or training has diverged.
    """
    parameters = {name: p for name, p in model.architecture.encoder.named_parameters() if p.is_floating_point()}
    # Only the encoder's gradients are needed.
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    # `to` moves the values of parameters in place, so `parameters` stays valid.
    model.eval().to(device)
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for name, of_task in tasks.items():
        tokenized = of_task.tokenized["train"]
        chance = np.random.default_rng(seed_for(seed, "fisher", name))
        # In equal parts for all tasks of the run, however many rows each has.
        picked = np.sort(chance.permutation(len(tokenized))[:rows])
        generator = torch.Generator().manual_seed(seed_for(seed, "fisher-labels", name))
        for row in picked:
            batch = collate(tokenized, model.names.index(name), np.array([row])).to(device)
            for squares in _squares(model, batch, parameters, generator):
                for key, value in squares.items():
                    # The mean over the rows of a task, then over the tasks.
                    total[key].add_(value, alpha=1 / (len(picked) * len(tasks)))
    count = sum(value.numel() for value in total.values())
    # float64, because the sums are over millions of very small values.
    mean = float(sum(value.double().sum() for value in total.values())) / count
    # `not mean > 0` is true for NaN as well.
    if not mean > 0 or not np.isfinite(mean):
        raise MtlError(f"the Fisher information of {', '.join(tasks)} is {mean:g}; use another method")
    return {name: value / mean for name, value in total.items()}


def _squares(
    model: MultiTaskModel, batch: Batch, parameters: Mapping[str, Tensor], generator: torch.Generator
) -> list[dict[str, Tensor]]:
    """Return squared gradients whose sum is the information of one row.

    For classes they are those of log p(y), weighted by p(y). For scores, whose likelihood is a Gaussian of variance 1, it is the
    squared gradient of the score itself. For other targets it is that of the loss for the row's own label, the empirical information.
    """
    output = model(batch.task, batch)
    head = model.head(batch.task)
    target = head.facts.task.target
    predicted = head.predicted(output)
    logits = target.logits(predicted)
    if logits is not None:
        log_p = torch.log_softmax(logits, dim=-1)
        if len(log_p) == 1 and log_p.shape[-1] <= MOST_CLASSES:
            probabilities = log_p[0].exp().tolist()
            return [
                # The gradient with the last label frees the graph.
                _squared(log_p[0, label], parameters, weight, keep=label + 1 < len(probabilities))
                for label, weight in enumerate(probabilities)
            ]
        # On the CPU, so that the generator gives the same labels on every device.
        drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(log_p.device)
        # The labels of the items are drawn independently, so the products of different items are 0 on average.
        return [_squared(log_p.gather(-1, drawn).sum(), parameters, 1.0)]
    if target.noise == "gaussian":
        return [_squared(predicted.float().sum(), parameters, 1.0)]
    return [_squared(model.losses(batch.task, output, batch).sum(), parameters, 1.0)]


def _squared(
    value: Tensor, parameters: Mapping[str, Tensor], weight: float, *, keep: bool = False
) -> dict[str, Tensor]:
    # The output does not depend on the encoder.
    if not value.requires_grad:
        return {}
    gradients = torch.autograd.grad(value, list(parameters.values()), retain_graph=keep, allow_unused=True)
    return {
        name: gradient.float().square() * weight
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    }
