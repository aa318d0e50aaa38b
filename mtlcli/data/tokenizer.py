"""A tokenizer of transformers as a function from texts to numbers, and the sequences that it gives."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from mtlcli.tasks.targets import Arrays


@dataclass(frozen=True)
class TokenSequences:
    """s token sequences of n rows: sequence i is `tokens[starts[i]:starts[i + 1]]`.

    Attributes:
        types: 0 and 1 for the first and second text of a pair; None for an encoder without them.
        truncated: texts that were longer than the limit.
        cut: whether a text of each row was truncated (n,); None for arrays from a file.
        rows: (n + 1,), first sequence of each row; None where each row is one sequence.
        items: of each row, `sequence` (counted within the row), `first` and `last` token of it, and possibly `span`, the characters
            (m, 2) that it covers; None where rows have no items.
    """

    tokens: np.ndarray
    starts: np.ndarray
    types: np.ndarray | None
    truncated: int
    cut: np.ndarray | None = None
    rows: np.ndarray | None = None
    items: Arrays | None = None

    def __len__(self) -> int:
        return len(self.starts if self.rows is None else self.rows) - 1

    def lengths(self) -> np.ndarray:
        """Return the tokens of each row (n,) int64; of several sequences padded to the longest, all of them."""
        lengths = np.diff(self.starts)
        if self.rows is None:
            return lengths
        # Every row has one sequence or more, without which `reduceat` would return a neighbor's length.
        counts = np.diff(self.rows)
        return np.maximum.reduceat(lengths, self.rows[:-1]) * counts if len(counts) else counts


@dataclass(frozen=True)
class Pieces:
    """The tokens of a text without special ones: their numbers (p,), and first character and the one after the last (p,)."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class Template:
    """Special tokens around one text or between the two of a pair, with their types, and the types of the texts."""

    around: tuple[tuple[list[int], list[int]], ...]
    of_texts: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return sum(len(ids) for ids, _ in self.around)

    def fill(self, *texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers and types of texts with their special tokens."""
        ids: list[Any] = [self.around[0][0]]
        types: list[Any] = [self.around[0][1]]
        for text, kind, (after, after_types) in zip(texts, self.of_texts, self.around[1:], strict=True):
            ids += [text, after]
            types += [np.full(len(text), kind), after_types]
        return np.concatenate(ids).astype(np.int64), np.concatenate(types).astype(np.uint8)


class Tokenizer:
    """A fast tokenizer of transformers, used for token numbers, types and truncation alone.

    Raises:
        ValueError: the tokenizer has no fast form.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("it has no fast tokenizer (tokenizer.json)")
        self.tokenizer = tokenizer
        self.max_length = max_length
        # Some tokenizers have no padding token. Any number does, because padding is masked.
        self.pad = tokenizer.pad_token_id or 0
        self.unknown = self.pad if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.backend = tokenizer.backend_tokenizer
        # tokenizer.json can contain padding and truncation of its own.
        self.backend.no_padding()
        self.backend.enable_truncation(max_length, strategy="longest_first")
        # By the largest number and not by the size: added tokens can leave gaps.
        self.wide = max(tokenizer.get_vocab().values(), default=0) > np.iinfo(np.uint16).max

    def digest(self) -> str:
        """Return a digest that changes whenever the same text can give other numbers."""
        return hashlib.sha256(f"{self.backend.to_str()}\0{self.max_length}\0{self.has_types}".encode()).hexdigest()

    def __call__(self, texts: Sequence[tuple[str, ...]]) -> tuple[list[list[int]], list[list[int]], list[bool]]:
        """Return numbers and types of single texts (a,) or joined pairs (a, b), and which of them were truncated."""
        inputs = [text if len(text) == 2 else text[0] for text in texts]
        encoded = self.backend.encode_batch(inputs, add_special_tokens=True)
        # A text without any token gets a padding token, because pooling needs at least one vector.
        ids = [sequence.ids or [self.pad] for sequence in encoded]
        types = [sequence.type_ids or [0] for sequence in encoded]
        # The backend keeps the part of a text that it cuts off in `overflowing`.
        return ids, types, [bool(sequence.overflowing) for sequence in encoded]

    def sequences(self, texts: Sequence[tuple[str, ...]]) -> TokenSequences:
        """Tokenize a few rows of one text, or of two joined ones, as one sequence each."""
        ids, types, cut = self(texts)
        starts = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in ids], out=starts[1:])
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(starts[-1]))
        flat_types = None
        if self.has_types:
            flat_types = np.fromiter(chain.from_iterable(types), dtype=np.uint8, count=int(starts[-1]))
        return TokenSequences(flat, starts, flat_types, sum(cut), np.array(cut, dtype=bool))

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """Return the tokens of texts, whatever their length, without special tokens."""
        with self._whole():
            encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        pieces = []
        for encoding in encoded:
            # reshape: an empty list has the shape (0,) and not (0, 2).
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            pieces.append(Pieces(np.array(encoding.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1]))
        return pieces

    def template(self, texts: int = 1) -> Template:
        """Return what the tokenizer puts around one text, or around and between two."""
        with self._whole():
            # A tokenizer without an unknown token gives no token for a character that its vocabulary lacks.
            for probe in ("a", "1", "."):
                encoding = self.backend.encode(probe, *([probe] if texts == 2 else []))
                if set(encoding.sequence_ids) >= set(range(texts)):
                    break
            else:
                raise ValueError("the tokenizer gives no token for a, 1 or .")
        places = [[i for i, text in enumerate(encoding.sequence_ids) if text == side] for side in range(texts)]
        borders = [0, *chain.from_iterable((of_text[0], of_text[-1] + 1) for of_text in places), len(encoding.ids)]
        around = tuple(
            (encoding.ids[start:end], encoding.type_ids[start:end])
            for start, end in zip(borders[::2], borders[1::2], strict=True)
        )
        return Template(around, tuple(encoding.type_ids[of_text[0]] for of_text in places))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Switch truncation off."""
        self.backend.no_truncation()
        try:
            yield
        finally:
            self.backend.enable_truncation(self.max_length, strategy="longest_first")
