"""Where the items of rows stand in a batch of token sequences, for heads that predict more than one thing for a row."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NO_SPAN = (-1, -1)
"""Span of an item that covers no characters of the row's text, such as the place that stands for no answer."""


@dataclass(frozen=True)
class Items:
    """The m items of n rows in a batch of s token sequences: words, or whatever the encoding of the rows names.

    Attributes:
        starts: (n + 1,) int64, the items of row i are `starts[i]` up to `starts[i + 1]`.
        sequence: (m,) int64, the token sequence of the batch that an item is in.
        first, last: (m,) int64, positions of its first and last token in that sequence.
        spans: (m, 2) int64, the characters of the row's text that it covers; None where items are no parts of a text.
        rows: (n + 1,) int64, the token sequences of row i are `rows[i]` up to `rows[i + 1]`.
    """

    starts: "Tensor"
    sequence: "Tensor"
    first: "Tensor"
    last: "Tensor"
    rows: "Tensor"
    spans: "Tensor | None" = None

    @classmethod
    def of_tokens(cls, mask: "Tensor") -> "Items":
        """Return every token of sequences as an item, for a mask (s, length) that is True at tokens; each sequence is a row."""
        import torch

        sequence, place = mask.nonzero(as_tuple=True)
        rows = torch.arange(len(mask) + 1, device=mask.device)
        # The first of `rows` is 0, where the items of the first row begin.
        counts = torch.cat([rows[:1], mask.sum(1)])
        return cls(counts.cumsum(0), sequence, place, place, rows)

    def to(self, device: "torch.device") -> "Items":
        """Return the same on a device, see `devices.move`."""
        from mtlcli.devices import move

        if device.type == "cpu":
            return self
        spans = None if self.spans is None else move(self.spans, device)
        starts, sequence, first, last, rows = (
            move(tensor, device) for tensor in (self.starts, self.sequence, self.first, self.last, self.rows)
        )
        return Items(starts, sequence, first, last, rows, spans)

    def gather(self, tokens: "Tensor", reading: str = "first") -> "Tensor":
        """Return one vector for each item (m, dim).

        Args:
            tokens: (s, length, dim).
            reading: `first` or `last` for the vector of the item's first or last token, `mean` for the mean over its tokens.
        """
        import torch

        length = tokens.shape[1]
        flat = tokens.reshape(-1, tokens.shape[-1])
        # Where the sequence of each item begins among the flattened tokens (s * length, dim).
        base = self.sequence * length
        if reading == "first":
            return flat.index_select(0, base + self.first)
        if reading == "last":
            return flat.index_select(0, base + self.last)
        if reading != "mean":
            raise ValueError(f"no reading {reading!r}")
        counts = self.last - self.first + 1
        # For each of the t tokens of all items: the number of its item, and below, its place within that item.
        item = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        begins = counts.cumsum(0) - counts
        within = torch.arange(len(item), device=counts.device) - begins.index_select(0, item)
        pieces = flat.index_select(0, (base + self.first).index_select(0, item) + within)
        sums = flat.new_zeros(len(counts), flat.shape[-1]).index_add(0, item, pieces)
        return sums / counts.unsqueeze(1).to(sums.dtype)
