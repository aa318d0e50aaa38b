"""Parameters that lie in parts on the processes: FSDP2 (`fully_shard`) around the layers of an encoder.

Gradients are summed over the processes and never averaged, because losses are divided by the units of the whole batch before the
backward pass. Everything here is the identity for parameters that are whole.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtlcli.errors import MtlError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def shard(module: "nn.Module", parts: Sequence["nn.Module"], device: "torch.device", size: int) -> None:
    """Divide the parameters of a module over the processes, each of `parts` as a unit that is gathered for its own pass.

    Raises:
        MtlError: this version of PyTorch cannot do it.
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard
    except ImportError as error:
        raise MtlError(f"training.sharding: needs PyTorch 2.6 or newer ({error})") from error
    mesh = init_device_mesh(device.type, (size,))
    # The root comes last: it takes the parameters that no part has taken.
    for unit in (*parts, module):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        if isinstance(unit, FSDPModule):
            unit.set_gradient_divide_factor(1.0)
            # The default average needs an operation that gloo does not have.
            if hasattr(unit, "set_force_sum_reduction_for_comms"):
                unit.set_force_sum_reduction_for_comms(True)


def local(tensor: "Tensor") -> "Tensor":
    """Return the part of a tensor that lies in this process, the whole tensor if it is not divided."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def is_divided(tensor: "Tensor") -> bool:
    """Return whether a tensor lies in parts on the processes."""
    return hasattr(tensor, "to_local")


def whole(tensor: "Tensor") -> "Tensor":
    """Return the whole tensor. Every process must call it for a tensor that is divided."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def divided_like(part: "Tensor", like: "Tensor") -> "Tensor":
    """Return a part of this process as a tensor that is divided like another one."""
    if not is_divided(like):
        return part
    from torch.distributed.tensor import DTensor

    pattern: Any = like
    # Shape and stride, because they do not follow from a part where the rows do not divide evenly.
    return DTensor.from_local(
        part, pattern.device_mesh, pattern.placements, shape=pattern.shape, stride=pattern.stride(), run_check=False
    )


def divide_like(tensor: "Tensor", like: "Tensor") -> "Tensor":
    """Divide a whole tensor, which every process has, like another one."""
    if not is_divided(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    pattern: Any = like
    return distribute_tensor(tensor.to(like.device), pattern.device_mesh, pattern.placements)


def load_whole(module: "nn.Module", tensors: Mapping[str, "Tensor"]) -> None:
    """Load whole tensors into a module whose parameters may be divided."""
    state = module.state_dict()
    module.load_state_dict({name: divide_like(tensor, state[name]) for name, tensor in tensors.items()})
