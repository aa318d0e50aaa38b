"""The matrix products of a training step with an architecture, against those with hard sharing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mtlcli.architectures.base import run_encoder
from mtlcli.data.batches import Batch, TaskBatches
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.registry import plugin_call
from mtlcli.training.plan import ModelSizes, model_sizes


class _Counter(TorchDispatchMode):
    """Count the floating-point operations of the matrix products within a block.

    PyTorch's FlopCounterMode has hooks on every module, which `torch.autograd.grad` refuses and which take longer than the products.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        operations = flop_registry.get(func.overloadpacket)
        if operations is not None:
            self.total += operations(*args, **(kwargs or {}), out_val=result)
        return result


def sizes_and_products(model: MultiTaskModel, tasks: Sequence[TaskBatches], device: torch.device) -> ModelSizes:
    """Return the numbers of parameters of a model, and what a step costs where the architecture changes that."""
    sizes = model_sizes(model)
    # A divided encoder cannot run in one process alone, and states that are cached cost nothing in most steps.
    if not sizes.added or model.is_sharded or model.states_are_frozen:
        return sizes
    with plugin_call(model.architecture, "forward", "HiddenStates"):
        return replace(sizes, products=relative_products(model, tasks, device))


def relative_products(model: MultiTaskModel, tasks: Sequence[TaskBatches], device: torch.device) -> float:
    """Return the matrix products of a step, forward and backward, over those of hard sharing with a trainable encoder.

    The first row of each task passes through the architecture and back, without the heads. Matrix products take most of the time of an
    encoder, but many small ones take longer than their number says.
    """
    was_training = model.training
    # Without dropout, so that no random numbers are drawn; what an architecture measures in training stays as it is.
    model.eval()
    rows = [batches.batch(np.zeros(1, dtype=np.int64)).to(device) for batches in tasks]
    # A product of the forward pass has two in the backward pass: for the gradients of its input and of its weight.
    # Some fused kernels of attention are not counted; without them, attention is two products on every device.
    with sdpa_kernel(SDPBackend.MATH):
        plain = 3 * sum(_products_of_encoder(model, row) for row in rows)
        ratio = sum(_products_of_architecture(model, row) for row in rows) / max(1, plain)
    model.train(was_training)
    return ratio


def _products_of_architecture(model: MultiTaskModel, batch: Batch) -> int:
    """Count the operations of one batch through the architecture and back."""
    trainable = [parameter for parameter in model.architecture.parameters() if parameter.requires_grad]
    with torch.enable_grad(), _Counter() as counter:
        hidden = model.hidden(batch.task, model.inputs(batch.task, batch)).last
        if trainable and hidden.requires_grad:
            torch.autograd.grad(hidden.float().sum(), trainable, allow_unused=True)
    return counter.total


@torch.no_grad()
def _products_of_encoder(model: MultiTaskModel, batch: Batch) -> int:
    """Count the operations of one batch through the encoder alone."""
    with _Counter() as counter:
        run_encoder(model.architecture.encoder_of(batch.task), model.inputs(batch.task, batch))
    return counter.total
