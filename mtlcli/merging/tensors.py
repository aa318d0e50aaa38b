"""Weights of encoders in scratch files, from which they are read tensor by tensor."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file that stays open; a tensor is read when it is asked for."""

    path: Path
    _file: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A frozen dataclass allows no other assignment.
        object.__setattr__(self, "_file", safe_open(self.path, framework="pt"))

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, sorted."""
        return tuple(sorted(self._file.keys()))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by name."""
        # From the file's header, without reading values.
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in self.names}

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self[name]) for name in self.names)

    def digest(self) -> str:
        """Return a sha256 of all names, shapes and values, equal for equal weights in other files."""
        whole = hashlib.sha256()
        for name, tensor in self:
            # With name, shape and type, or different tensors with the same bytes would have the same digest.
            whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
            whole.update(tensor.numpy().tobytes())
        return whole.hexdigest()


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> TensorFile:
    """Write tensors to a file and open it."""
    # Copies, because tied weights share memory, which safetensors rejects.
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path)
    return TensorFile(path)


def write_state(model: nn.Module, path: Path) -> TensorFile:
    """Write the parameters and buffers of a model, by its own names, in float32 where they are floating-point numbers."""
    return write_tensors(
        {
            name: value.float() if torch.is_floating_point(value) else value
            for name, value in model.state_dict().items()
        },
        path,
    )
