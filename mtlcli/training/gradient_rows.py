"""Rows of gradients: their blocks of columns, their Gram matrix, and their weighted sum."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlcli.distributed.sharding import local
from mtlcli.model.multitask import MultiTaskModel

COLUMNS = 8192
"""Columns multiplied at a time: float32 within a block, float64 across blocks, which keeps the Gram matrix exact to 1e-6."""


def blocks(model: MultiTaskModel, granularity: str) -> list[tuple[str, slice]]:
    """Return the blocks of shared parameters as (name, columns of the rows), of divided ones the columns of this process.

    A block is a `tensor` or a `layer`. A layer holds the parameters whose names share a prefix up to the first number
    (`encoder.layer.3`), or up to the third part if they have no number.
    """
    return blocks_of(model.named_shared_parameters(), granularity)


def blocks_of(parameters: Sequence[tuple[str, nn.Parameter]], granularity: str) -> list[tuple[str, slice]]:
    """Return the blocks of named parameters, in their order, as (name, columns of a row of all of them); see `blocks`."""
    parts: list[tuple[str, slice]] = []
    end = 0
    for name, parameter in parameters:
        start, end = end, end + local(parameter).numel()
        block = name if granularity == "tensor" else _layer_of(name)
        # Only neighbors are joined, because a block is one slice of columns.
        if parts and parts[-1][0] == block:
            start = parts.pop()[1].start
        parts.append((block, slice(start, end)))
    return parts


def _layer_of(name: str) -> str:
    parts = name.split(".")
    number = next((position for position, part in enumerate(parts) if part.isdigit()), 2)
    return ".".join(parts[: number + 1])


def gram_matrix(rows: Tensor) -> Tensor:
    """Return the inner products (k, k) float64 of rows (k, P) float32, exact to about 1e-6 of the norms."""
    k, size = rows.shape
    full = size // COLUMNS
    blocks = rows[:, : full * COLUMNS].view(k, full, COLUMNS).transpose(0, 1)
    # (full, k, COLUMNS) times its transpose: a Gram matrix (k, k) for each block of columns.
    products = torch.bmm(blocks, blocks.transpose(1, 2))
    rest = rows[:, full * COLUMNS :]
    products_of_rest = rest @ rest.T
    if rows.device.type == "mps":  # without float64
        products, products_of_rest = products.cpu(), products_of_rest.cpu()
    return products.sum(0, dtype=torch.float64) + products_of_rest.double()


def combine_rows(rows: Tensor, weights: Sequence[float]) -> None:
    """Replace row 0 by sum_t weights[t] * row t, without another buffer."""
    rows[0].mul_(weights[0])
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        # A weight of 0 does not hide a NaN in the row (0 * NaN is NaN), so the step is still skipped.
        rows[0].add_(row, alpha=weight)
