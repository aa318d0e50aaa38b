"""Texts as token numbers: tokenized once, in flat memory-mapped arrays with offsets, found again by content."""

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

CHUNK = 2048
"""Texts tokenized at a time."""


@dataclass(frozen=True)
class TokenSequences:
    """n token sequences: row i is `tokens[starts[i]:starts[i + 1]]`. types are 0 and 1 for the first and second text."""

    tokens: np.ndarray
    starts: np.ndarray
    types: np.ndarray | None
    truncated: int

    def lengths(self) -> np.ndarray:
        """Tokens of each sequence (n,) int64."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class TokenizedSplit:
    """The rows of one split as numbers: one sequence a row, or two where each text is encoded alone (`bi`).

    targets (n,) are class indices or scores, None where the rows have no labels; pad is the token number of padding.
    """

    sides: tuple[TokenSequences, ...]
    targets: np.ndarray | None
    pad: int

    def __len__(self) -> int:
        return len(self.sides[0].starts) - 1

    def lengths(self) -> np.ndarray:
        """Tokens of the longer text of each row (n,)."""
        return np.max([side.lengths() for side in self.sides], axis=0)

    @property
    def truncated(self) -> int:
        """Texts that were longer than the limit."""
        return sum(side.truncated for side in self.sides)


class Tokenizer:
    """A fast tokenizer of transformers, asked for nothing but token numbers, types and whether it had to cut.

    Raises ValueError for a tokenizer that has no fast form.
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
        """Changes whenever the same text could give other numbers."""
        return hashlib.sha256(f"{self.backend.to_str()}\0{self.max_length}\0{self.has_types}".encode()).hexdigest()

    def __call__(self, texts: Sequence[tuple[str, ...]]) -> tuple[list[list[int]], list[list[int]], int]:
        """Single texts (a,) or joined pairs (a, b) -> numbers and types of each, and how many were cut.

        Where a text gives no token at all, it gets the one of padding: nothing can be averaged over nothing.
        """
        inputs = [text if len(text) == 2 else text[0] for text in texts]
        found = self.backend.encode_batch(inputs, add_special_tokens=True)
        ids = [one.ids or [self.pad] for one in found]
        return ids, [one.type_ids or [0] for one in found], sum(bool(one.overflowing) for one in found)

    def sequences(self, texts: Sequence[tuple[str, ...]]) -> TokenSequences:
        """A few texts, in memory: what prediction does window by window."""
        ids, types, cut = self(texts)
        starts = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in ids], out=starts[1:])
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(starts[-1]))
        flat_types = None
        if self.has_types:
            flat_types = np.fromiter(chain.from_iterable(types), dtype=np.uint8, count=int(starts[-1]))
        return TokenSequences(flat, starts, flat_types, cut)


def cache_folder() -> Path | None:
    """Where token arrays are kept between runs: MTL_CACHE, else the user's cache folder; None where MTL_CACHE is empty."""
    chosen = os.environ.get("MTL_CACHE")
    if chosen is not None:
        return Path(chosen) if chosen else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtlcli"


def tokenize(
    texts: Iterable[tuple[str, ...]], tokenizer: Tokenizer, key: str | None, cache: Path | None
) -> TokenSequences:
    """Tokenizes a stream of texts into arrays on disk, in constant memory.

    `key` names the content of the texts; with a cache folder, the arrays are found there again by key, tokenizer and
    length limit, and a folder that cannot be written is done without.
    """
    name = None
    if key is not None and cache is not None:
        name = hashlib.sha256(f"{key}\0{tokenizer.digest()}\0v2".encode()).hexdigest()[:40]
        found = _load(cache / name)
        if found is not None:
            return found
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
        found = _load(folder)  # an open map keeps its file even when the scratch folder goes
    if found is None:
        raise RuntimeError(f"token arrays in {folder} cannot be read back")
    return found


def tokenize_split(split: Split, tokenizer: Tokenizer, encoding: str, cache: Path | None) -> TokenizedSplit:
    """A split's rows as numbers: one sequence a row, or one for each text where the encoding is `bi`."""
    if encoding == "bi":
        sides = tuple(
            tokenize(((texts[side],) for texts in split.texts()), tokenizer, f"{split.content} side {side}", cache)
            for side in range(len(split.columns.texts))
        )
    else:
        sides = (tokenize(split.texts(), tokenizer, f"{split.content} joined", cache),)
    return TokenizedSplit(sides, split.targets, tokenizer.pad)


def _keep(folder: Path, final: Path) -> Path:
    """Moves a folder to its final name, where a damaged one may stand, or one that another run was faster to write."""
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
    """Writes an array; returns the checksum of all that was written."""
    raw = array.tobytes()
    file.write(raw)
    return zlib.crc32(raw, check)


def _chunks(texts: Iterable[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _load(folder: Path) -> TokenSequences | None:
    """The arrays of a folder, None where they are absent or not whole."""
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
    """The array of a file, mapped. Raises ValueError where the file is not as it was written."""
    if path.stat().st_size != size * np.dtype(dtype).itemsize:
        raise ValueError(f"{path} is not whole")
    if not size:
        return np.zeros(0, dtype=dtype)
    found = np.memmap(path, dtype=dtype, mode="r", shape=(size,))
    if zlib.crc32(found.data) != check:
        raise ValueError(f"{path} is damaged")
    return found
