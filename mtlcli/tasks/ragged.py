"""Named flat arrays over items, and where the items of each row begin: labels of a split, of a batch, and predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    import torch

A = TypeVar("A")


@dataclass(frozen=True)
class Ragged(Generic[A]):
    """n rows of items.

    Attributes:
        fields: an array (m, ...) over all items of all rows, by name; numpy arrays or tensors, all of one sort.
        starts: (n + 1,) int64, the items of row i are `starts[i]` up to `starts[i + 1]`; None where each row is one item (m == n).
    """

    fields: Mapping[str, A]
    starts: A | None = None

    def __len__(self) -> int:
        array: Any = next(iter(self.fields.values())) if self.starts is None else self.starts
        return len(array) - (self.starts is not None)

    def __getitem__(self, name: str) -> A:
        """Return the array of a field."""
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def take(self, rows: Any) -> "Ragged[A]":
        """Return some rows, in the order of `rows`: numbers, a mask (n,) or a slice. No Python loop over rows."""
        fields: Mapping[str, Any] = self.fields
        starts: Any = self.starts
        if starts is None:
            return Ragged({name: array[rows] for name, array in fields.items()})
        gather = _gather_array if isinstance(starts, np.ndarray) else _gather_tensor
        items, starts = gather(starts, rows)
        return Ragged({name: array[items] for name, array in fields.items()}, starts)

    def numpy(self) -> "Ragged[np.ndarray]":
        """Return the same as arrays on the CPU; half precision, which numpy lacks, as float32."""
        # Imported where it is needed, so that reading labels and results does not load PyTorch.
        import torch

        def array(tensor: Any) -> np.ndarray:
            low = tensor.dtype in (torch.bfloat16, torch.float16)
            result: np.ndarray = (tensor.float() if low else tensor).cpu().numpy()
            return result

        fields = {name: array(tensor) for name, tensor in self.fields.items()}
        return Ragged(fields, None if self.starts is None else array(self.starts))

    def tensors(self) -> "Ragged[torch.Tensor]":
        """Return the same as tensors on the CPU, sharing memory with the arrays."""
        import torch

        fields: Mapping[str, Any] = self.fields
        starts: Any = self.starts
        return Ragged(
            {name: torch.from_numpy(array) for name, array in fields.items()},
            None if starts is None else torch.from_numpy(starts),
        )

    def to(self, device: "torch.device") -> "Ragged[A]":
        """Return the same tensors on a device, see `devices.move`."""
        from mtlcli.devices import move

        if device.type == "cpu":
            return self
        fields: Mapping[str, Any] = self.fields
        starts: Any = self.starts
        return Ragged(
            {name: cast(A, move(tensor, device)) for name, tensor in fields.items()},
            None if starts is None else cast(A, move(starts, device)),
        )

    def tobytes(self) -> bytes:
        """Return the bytes of all arrays, fields in the order of their names: for digests."""
        fields: Mapping[str, Any] = self.fields
        starts: Any = self.starts
        content = b"".join(fields[name].tobytes() for name in sorted(fields))
        return content if starts is None else content + starts.tobytes()


Arrays = Ragged[np.ndarray]
"""Labels of a split, or predictions, as numpy arrays."""
Tensors = Ragged["torch.Tensor"]
"""Labels of a batch, or decoded predictions, as tensors."""


def concat(parts: Sequence[Ragged[A]]) -> Ragged[A]:
    """Return the rows of all parts, one part after the other. All have the same fields.

    Raises:
        ValueError: there are no parts, or their fields differ.
    """
    if not parts or any(set(part.fields) != set(parts[0].fields) for part in parts):
        raise ValueError("expected one part or more, all with the same fields")
    arrays: Any = [part.starts for part in parts]
    if isinstance(next(iter(parts[0].fields.values())), np.ndarray):
        join: Any = np.concatenate
    else:
        import torch

        join = torch.cat
    fields = {name: join([part[name] for part in parts]) for name in parts[0].fields}
    if arrays[0] is None:
        return Ragged(fields)
    # The slice is the leading 0, as an array or a tensor like the rest.
    offset, starts = 0, [arrays[0][:1]]
    for array in arrays:
        starts.append(array[1:] + offset)
        offset += int(array[-1])
    return Ragged(fields, join(starts))


def _gather_array(starts: np.ndarray, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the items of these rows, and where each row begins among them."""
    first, lengths = starts[:-1][rows], np.diff(starts)[rows]
    begins = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=begins[1:])
    # Item j of the result is at place j - begins in its row, so its number is first + j - begins.
    return np.repeat(first - begins[:-1], lengths) + np.arange(begins[-1]), begins


def _gather_tensor(starts: "torch.Tensor", rows: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the same as `_gather_array`, as tensors."""
    import torch

    first, lengths = starts[:-1][rows], starts.diff()[rows]
    begins = torch.cat([starts.new_zeros(1), lengths.cumsum(0)])
    count = int(begins[-1])
    # Without `output_size`, repeat_interleave would wait for the GPU once more to learn the size.
    offsets = torch.repeat_interleave(first - begins[:-1], lengths, output_size=count)
    return offsets + torch.arange(count, device=starts.device), begins
