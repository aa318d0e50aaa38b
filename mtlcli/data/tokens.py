"""Texts as token numbers: tokenized once, in flat memory-mapped arrays with offsets, cached by content."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mtlcli.data.splits import Split
from mtlcli.errors import MtlError
from mtlcli.files import scratch_folder
from mtlcli.tasks.targets import Arrays, Target

CHUNK = 2048
"""Texts tokenized at a time."""


@dataclass(frozen=True)
class TokenSequences:
    """n token sequences: row i is `tokens[starts[i]:starts[i + 1]]`.

    Attributes:
        types: 0 and 1 for the first and second text of a pair; None for an encoder without them.
        truncated: texts that were longer than the limit.
        cut: whether each sequence was truncated (n,); None for arrays from a file.
    """

    tokens: np.ndarray
    starts: np.ndarray
    types: np.ndarray | None
    truncated: int
    cut: np.ndarray | None = None

    def lengths(self) -> np.ndarray:
        """Return the tokens of each sequence (n,) int64."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class TokenizedSplit:
    """The rows of one split as numbers.

    Attributes:
        sides: one sequence for each row, or two where each text is encoded alone (`bi`).
        pad: token number of padding.
        target, gold: what the rows' labels are, and these labels; both None where the rows have none.
    """

    sides: tuple[TokenSequences, ...]
    pad: int
    target: Target | None = None
    gold: Arrays | None = None

    def __len__(self) -> int:
        return len(self.sides[0].starts) - 1

    def lengths(self) -> np.ndarray:
        """Return the tokens of the longer text of each row (n,)."""
        return np.max([side.lengths() for side in self.sides], axis=0)

    @property
    def truncated(self) -> int:
        """Number of texts that were longer than the limit."""
        return sum(side.truncated for side in self.sides)


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
        self.pad = tokenizer.pad_token_id or 0
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.backend = tokenizer.backend_tokenizer
        self.backend.no_padding()
        self.backend.enable_truncation(max_length, strategy="longest_first")
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
        return ids, types, [bool(sequence.overflowing) for sequence in encoded]

    def sequences(self, texts: Sequence[tuple[str, ...]]) -> TokenSequences:
        """Tokenize a few texts in memory, as prediction does window by window."""
        ids, types, cut = self(texts)
        starts = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in ids], out=starts[1:])
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(starts[-1]))
        flat_types = None
        if self.has_types:
            flat_types = np.fromiter(chain.from_iterable(types), dtype=np.uint8, count=int(starts[-1]))
        return TokenSequences(flat, starts, flat_types, sum(cut), np.array(cut, dtype=bool))


def cache_folder() -> Path | None:
    """Return the folder where token arrays are cached: MTL_CACHE, else the user's cache folder; None if MTL_CACHE is empty."""
    folder = os.environ.get("MTL_CACHE")
    if folder is not None:
        return Path(folder) if folder else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtlcli"


def tokenize(
    texts: Iterable[tuple[str, ...]], tokenizer: Tokenizer, key: str | None, cache: Path | None
) -> TokenSequences:
    """Tokenize a stream of texts into arrays on disk, in constant memory.

    `key` identifies the content of the texts. With a cache folder, arrays are cached by key, tokenizer and length limit; an
    unwritable cache folder is ignored.
    """
    name = None
    if key is not None and cache is not None:
        name = hashlib.sha256(f"{key}\0{tokenizer.digest()}\0v2".encode()).hexdigest()[:40]
        sequences = _load(cache / name)
        if sequences is not None:
            return sequences
    place = cache if name is not None and cache is not None and _writable(cache) else None
    with scratch_folder(place) as scratch:
        folder = scratch / "tokens"
        folder.mkdir()
        try:
            _write(texts, tokenizer, folder)
        except OSError as error:
            raise MtlError(
                f"{folder.parent.parent}: token arrays cannot be written ({error.strerror}): make space, or name another "
                "folder in MTL_CACHE"
            ) from error
        if place is not None and name is not None:
            folder = _keep(folder, place / name)
        sequences = _load(folder)  # an open map keeps its file even when the scratch folder goes
    if sequences is None:
        raise RuntimeError(f"token arrays in {folder} cannot be read back")
    return sequences


def tokenize_split(split: Split, tokenizer: Tokenizer, encoding: str, cache: Path | None) -> TokenizedSplit:
    """Tokenize the rows of a split: one sequence for each row, or for each text if the encoding is `bi`."""
    if encoding == "bi":
        sides = tuple(
            tokenize(((texts[side],) for texts in split.texts()), tokenizer, f"{split.content} side {side}", cache)
            for side in range(len(split.columns.texts))
        )
    else:
        sides = (tokenize(split.texts(), tokenizer, f"{split.content} joined", cache),)
    return TokenizedSplit(sides, tokenizer.pad, split.target, split.gold)


def _keep(folder: Path, final: Path) -> Path:
    """Move a folder to its final name, where a damaged folder or that of a faster run may exist already."""
    for _ in range(2):
        with suppress(OSError):
            return folder.rename(final)
        if _load(final) is not None:
            return final
        shutil.rmtree(final, ignore_errors=True)
    return folder


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _write(texts: Iterable[tuple[str, ...]], tokenizer: Tokenizer, folder: Path) -> None:
    dtype = np.uint32 if tokenizer.wide else np.uint16
    lengths: list[np.ndarray] = []
    truncated, checks = 0, {"tokens": 0, "types": 0}
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "types.bin").open("wb") as types:
        for chunk in _chunks(texts):
            part = tokenizer.sequences(chunk)
            checks["tokens"] = _append(tokens, part.tokens.astype(dtype), checks["tokens"])
            if part.types is not None:
                checks["types"] = _append(types, part.types, checks["types"])
            lengths.append(part.lengths())
            truncated += part.truncated
    starts = np.zeros(sum(map(len, lengths)) + 1, dtype=np.int64)
    if lengths:
        np.cumsum(np.concatenate(lengths), out=starts[1:])
    np.save(folder / "starts.npy", starts)
    facts = {"dtype": np.dtype(dtype).name, "truncated": truncated, "types": tokenizer.has_types, "crc32": checks}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _append(file: BinaryIO, array: np.ndarray, check: int) -> int:
    """Write an array and return the checksum of the file so far."""
    raw = array.tobytes()
    file.write(raw)
    return zlib.crc32(raw, check)


def _chunks(texts: Iterable[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _load(folder: Path) -> TokenSequences | None:
    """Return the arrays of a folder, None if they are missing or incomplete."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        checks = facts["crc32"]
        starts = np.load(folder / "starts.npy")
        size = int(starts[-1])
        tokens = _map(folder / "tokens.bin", facts["dtype"], size, checks["tokens"])
        types = _map(folder / "types.bin", "uint8", size, checks["types"]) if facts["types"] else None
        if starts[0] != 0 or (np.diff(starts) < 0).any():
            return None
        return TokenSequences(tokens, starts, types, facts["truncated"])
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError):
        return None


def _map(path: Path, dtype: str, size: int, check: int) -> np.ndarray:
    """Map the array of a file into memory.

    Raises:
        ValueError: the file is not as it was written.
    """
    if path.stat().st_size != size * np.dtype(dtype).itemsize:
        raise ValueError(f"{path} is incomplete")
    if not size:
        return np.zeros(0, dtype=dtype)
    array = np.memmap(path, dtype=dtype, mode="r", shape=(size,))
    if zlib.crc32(array.data) != check:
        raise ValueError(f"{path} is damaged")
    return array
