"""Texts as token numbers: tokenized once, in flat memory-mapped arrays with offsets, cached by content."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mtlcli.data.encodings import PLAIN, RowEncoding, RowTexts, TooLong
from mtlcli.data.splits import Split
from mtlcli.data.tokenizer import Tokenizer, TokenSequences
from mtlcli.errors import MtlError
from mtlcli.files import locked, scratch_folder
from mtlcli.tasks.targets import Arrays, Ragged, Target, concat

CHUNK = 2048
"""Texts tokenized at a time."""


@dataclass(frozen=True)
class TokenizedSplit:
    """The rows of one split as numbers.

    Attributes:
        sides: the token sequences of all rows, or those of each text where they are encoded apart (`bi`).
        pad: token number of padding.
        target, gold: what the rows' labels are, and these labels; both None where the rows have none.
        weights: (n,) float64, factors of the rows' losses in training; None where all are 1.
    """

    sides: tuple[TokenSequences, ...]
    pad: int
    target: Target | None = None
    gold: Arrays | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sides[0])

    def lengths(self) -> np.ndarray:
        """Return the tokens of the longer text of each row (n,), of all its sequences where it has several."""
        return np.max([side.lengths() for side in self.sides], axis=0)

    @property
    def truncated(self) -> int:
        """Number of texts that were longer than the limit."""
        return sum(side.truncated for side in self.sides)

    @property
    def windows(self) -> tuple[int, int] | None:
        """Number of rows of several sequences, and of these sequences; None where each row has one for each side."""
        counts = np.zeros(0) if self.sides[0].rows is None else np.diff(self.sides[0].rows)
        several = counts[counts > 1]
        return (len(several), int(several.sum())) if len(several) else None

    def sequence_starts(self) -> np.ndarray:
        """Return where each sequence begins (s,), if the tokens of all sides stand one after the other."""
        sizes = [int(side.starts[-1]) for side in self.sides]
        offsets = np.cumsum([0, *sizes[:-1]])
        return np.concatenate([side.starts[:-1] + offset for side, offset in zip(self.sides, offsets, strict=True)])

    def sequences_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of the sequences of some rows (s,), the first sides of all rows before the second ones."""
        first = self.sides[0].rows
        if first is None:
            # One sequence per row and side: the numbers of the second sides follow those of all first ones.
            return np.concatenate([rows + side * len(self) for side in range(len(self.sides))])
        # Only encodings with one side have several sequences in a row.
        return np.concatenate([np.arange(first[row], first[row + 1]) for row in rows.tolist()])


def cache_folder() -> Path | None:
    """Return the folder where token arrays are cached: MTL_CACHE, else the user's cache folder; None if MTL_CACHE is empty."""
    folder = os.environ.get("MTL_CACHE")
    if folder is not None:
        return Path(folder) if folder else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtlcli"


def tokenize(
    texts: Iterable[RowTexts], tokenizer: Tokenizer, key: str | None, cache: Path | None,
    encoding: RowEncoding = PLAIN,
) -> TokenSequences:  # fmt: skip
    """Tokenize a stream of texts into arrays on disk, in constant memory.

    `key` identifies the content of the texts. With a cache folder, arrays are cached by key, tokenizer and length limit; an
    unwritable cache folder is ignored.
    """
    name = None
    if key is not None and cache is not None:
        # v3 is the version of the layout that `_write` produces: entries of other versions are not found.
        name = hashlib.sha256(f"{key}\0{tokenizer.digest()}\0{encoding}\0v3".encode()).hexdigest()[:40]
        sequences = _load(cache / name)
        if sequences is not None:
            return sequences
    place = cache if name is not None and cache is not None and _writable(cache) else None
    with ExitStack() as stack:
        if place is not None and name is not None:
            stack.enter_context(locked(place / f"{name}.lock"))
            sequences = _load(place / name)
            if sequences is not None:  # another process has written it meanwhile
                return sequences
        scratch = stack.enter_context(scratch_folder(place))
        folder = scratch / "tokens"
        folder.mkdir()
        try:
            _write(texts, tokenizer, encoding, folder)
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


def tokenize_split(
    split: Split, tokenizer: Tokenizer, cache: Path | None, memory: dict[str, tuple[TokenSequences, ...]] | None = None
) -> TokenizedSplit:
    """Tokenize the rows of a split by its encoding.

    Args:
        memory: tokens of earlier splits by their texts, for splits of other tasks with the same texts.
    """
    key = f"{split.texts_digest} {split.encoding}"
    sides = None if memory is None else memory.get(key)
    if sides is None:
        try:
            sides = _sides_of(split, tokenizer, cache)
        except TooLong as error:
            raise MtlError(f"{split.place(error.row)}: {error}") from None
        if memory is not None:
            memory[key] = sides
    return TokenizedSplit(sides, tokenizer.pad, split.target, split.gold, split.weights)


def _sides_of(split: Split, tokenizer: Tokenizer, cache: Path | None) -> tuple[TokenSequences, ...]:
    """Return the sequences of each text that is encoded apart, or those of whole rows."""
    encoding, digest = split.encoding, split.texts_digest
    if encoding.sides == 2:
        # Each side reads the texts again, so that those of the other side need not stay in memory.
        return tuple(
            tokenize(((texts[side],) for texts in split.texts()), tokenizer, f"{digest} side {side}", cache, encoding)
            for side in range(2)
        )
    return (tokenize(split.texts(), tokenizer, f"{digest} joined", cache, encoding),)


def _keep(folder: Path, final: Path) -> Path:
    """Move a folder to its final name, where a damaged folder or that of a faster run may exist already."""
    # A folder cannot replace one that is not empty: a complete one is used, a damaged one is removed.
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


def _write(texts: Iterable[RowTexts], tokenizer: Tokenizer, encoding: RowEncoding, folder: Path) -> None:
    dtype = np.uint32 if tokenizer.wide else np.uint16
    lengths: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    items: list[Arrays] = []
    truncated, checks = 0, {"tokens": 0, "types": 0}
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "types.bin").open("wb") as types:
        for number, chunk in enumerate(_chunks(texts)):
            try:
                part = encoding.tokenize(chunk, tokenizer)
            except TooLong as error:
                # The encoding counts rows within the chunk.
                raise TooLong(number * CHUNK + error.row, str(error)) from None
            checks["tokens"] = _append(tokens, part.tokens.astype(dtype), checks["tokens"])
            if part.types is not None:
                checks["types"] = _append(types, part.types, checks["types"])
            # 8 bytes of each sequence stay in memory, but none of its tokens.
            lengths.append(np.diff(part.starts))
            if part.rows is not None:
                counts.append(np.diff(part.rows))
            if part.items is not None:
                items.append(part.items)
            truncated += part.truncated
    np.save(folder / "starts.npy", _starts(lengths))
    if counts:
        np.save(folder / "rows.npy", _starts(counts))
    names = []
    if items:
        together = concat(items)
        names = sorted(together.fields)
        arrays = {name: together[name] for name in names} | {"starts": np.asarray(together.starts)}
        for name, array in arrays.items():
            np.save(folder / f"items.{name}.npy", array)
            checks[name] = zlib.crc32(array.tobytes())
    facts = {
        "dtype": np.dtype(dtype).name, "truncated": truncated, "types": tokenizer.has_types, "crc32": checks,
        "rows": bool(counts), "items": names,
    }  # fmt: skip
    # Written last: a folder without it is incomplete for `_load`.
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _starts(lengths: list[np.ndarray]) -> np.ndarray:
    """Return where each of several runs begins, and where the last one ends."""
    starts = np.zeros(sum(map(len, lengths)) + 1, dtype=np.int64)
    if lengths:
        np.cumsum(np.concatenate(lengths), out=starts[1:])
    return starts


def _append(file: BinaryIO, array: np.ndarray, check: int) -> int:
    """Write an array and return the checksum of the file so far."""
    raw = array.tobytes()
    file.write(raw)
    return zlib.crc32(raw, check)


def _chunks(texts: Iterable[RowTexts]) -> Iterator[list[RowTexts]]:
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
        # starts.npy has no checksum, and wrong offsets would give a row the tokens of another one.
        if starts[0] != 0 or (np.diff(starts) < 0).any():
            return None
        rows = np.load(folder / "rows.npy") if facts["rows"] else None
        return TokenSequences(tokens, starts, types, facts["truncated"], None, rows, _load_items(folder, facts))
    # Whatever a damaged file raises: the texts are then tokenized again.
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError):
        return None


def _load_items(folder: Path, facts: Mapping[str, Any]) -> Arrays | None:
    """Return the items of the rows, mapped into memory.

    Raises:
        ValueError: a file is not as it was written.
    """
    if not facts["items"]:
        return None
    arrays = {name: np.load(folder / f"items.{name}.npy", mmap_mode="r") for name in (*facts["items"], "starts")}
    for name, array in arrays.items():
        if zlib.crc32(np.ascontiguousarray(array).data) != facts["crc32"][name]:
            raise ValueError(f"items.{name}.npy in {folder} is damaged")
    starts = arrays.pop("starts")
    return Ragged(arrays, starts)


def _map(path: Path, dtype: str, size: int, check: int) -> np.ndarray:
    """Map the array of a file into memory.

    Raises:
        ValueError: the file is not as it was written.
    """
    if path.stat().st_size != size * np.dtype(dtype).itemsize:
        raise ValueError(f"{path} is incomplete")
    # An empty file cannot be mapped.
    if not size:
        return np.zeros(0, dtype=dtype)
    array = np.memmap(path, dtype=dtype, mode="r", shape=(size,))
    # Files are not synced before the rename, so a power failure can leave zeros in one of the right size.
    if zlib.crc32(array.data) != check:
        raise ValueError(f"{path} is damaged")
    return array
