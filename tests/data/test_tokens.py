"""Texts become numbers once: nothing is cut silently, and what is kept between runs is found by content alone."""

import tracemalloc

import numpy as np
import pytest

from mtlcli import registry
from mtlcli.config.schema import TaskConfig
from mtlcli.data import tokens
from mtlcli.data.splits import load_task
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.data.tokens import CHUNK, TokenizedSplit, cache_folder, tokenize, tokenize_split
from mtlcli.errors import MtlError
from words import word_tokenizer

WORDS = "a b c d e f g h".split()
A, B, C = 4, 5, 6  # their numbers


def tokenizer(max_length: int = 8, **more) -> Tokenizer:
    return Tokenizer(word_tokenizer(WORDS, **more), max_length)


def listed(sequences: tokens.TokenSequences) -> list[list[int]]:
    return [
        sequences.tokens[start:end].tolist() for start, end in zip(sequences.starts, sequences.starts[1:], strict=False)
    ]


def texts(*rows):
    return [tuple(row.split("|")) for row in rows]


class Counting:
    """Texts that tell whether they were asked for."""

    def __init__(self, rows):
        self.rows, self.asked = rows, 0

    def __iter__(self):
        self.asked += 1
        return iter(self.rows)


# Numbers


def test_a_text_is_framed_and_a_pair_is_joined():
    found = tokenize(texts("a b", "a|b c"), tokenizer(), None, None)
    assert listed(found) == [[2, A, B, 3], [2, A, 3, B, C, 3]]
    assert found.types.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert found.lengths().tolist() == [4, 6]
    assert found.truncated == 0


def test_what_is_encoded_in_memory_and_on_disk_is_the_same():
    rows = texts("a b c", "", "x y", "a b c d e f g h")
    on_disk, in_memory = tokenize(rows, tokenizer(5), None, None), tokenizer(5).sequences(rows)
    assert listed(on_disk) == listed(in_memory)
    assert on_disk.types.tolist() == in_memory.types.tolist()
    assert on_disk.truncated == in_memory.truncated == 1


def test_truncated_texts_are_counted_and_those_that_just_fit_are_not():
    found = tokenize(texts("a b c", "a b c d", "a b c d e"), tokenizer(6), None, None)
    assert (found.truncated, found.lengths().tolist()) == (1, [5, 6, 6])


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ("a b c d e|f", [2, A, B, 6, 3, 9, 3]),
        ("a|b c d e f", [2, A, 3, B, C, 7, 3]),
        ("a b c|d e f", [2, A, B, 3, 7, 8, 3]),
    ],
)
def test_the_limit_holds_for_a_pair_after_joining_and_cuts_the_longer_text(row, kept):
    found = tokenize(texts(row), tokenizer(7), None, None)
    assert (listed(found), found.truncated) == ([kept], 1)


def test_a_pair_at_the_limit_is_whole():
    assert tokenize(texts("a b|c d"), tokenizer(7), None, None).truncated == 0


def test_rows_with_two_sides_are_as_long_as_the_longer_one():
    first, second = (tokenize(texts(*rows), tokenizer(5), None, None) for rows in (("a", "a b c d"), ("a b", "a")))
    tokenized = TokenizedSplit((first, second), 0)
    assert (tokenized.lengths().tolist(), tokenized.truncated, len(tokenized)) == ([4, 5], 1, 2)


def test_a_tokenizer_without_frames_gives_an_empty_text_one_token_of_padding():
    found = tokenize(texts("", "a", " "), tokenizer(framed=False), None, None)
    assert listed(found) == [[0], [A], [0]]


def test_an_encoder_without_types_gets_none():
    assert tokenize(texts("a|b"), tokenizer(types=False), None, None).types is None


@pytest.mark.parametrize(
    ("shift", "dtype"), [(0, np.uint16), (65524, np.uint16), (65525, np.uint32), (200_000, np.uint32)]
)
def test_numbers_take_two_bytes_where_they_fit(shift, dtype):
    found = tokenize(texts("a h"), tokenizer(shift=shift), None, None)  # h is number 11 + shift
    assert found.tokens.dtype == dtype
    assert listed(found) == [[2, A + shift, A + shift + 7, 3]]


def test_a_tokenizer_without_a_fast_form_is_refused():
    with pytest.raises(ValueError, match="no fast tokenizer"):
        Tokenizer(object(), 8)


def test_no_text_at_all_is_no_sequence():
    assert listed(tokenize([], tokenizer(), None, None)) == []


# The cache


def test_texts_are_found_again_by_content(tmp_path):
    rows = Counting(texts("a b", "c"))
    first = tokenize(rows, tokenizer(), "key", tmp_path)
    again = tokenize(rows, tokenizer(), "key", tmp_path)
    assert rows.asked == 1
    assert listed(again) == listed(first)
    assert (again.types.tolist(), again.truncated) == (first.types.tolist(), first.truncated)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("other", tokenizer()),
        ("key", tokenizer(7)),
        ("key", Tokenizer(word_tokenizer(WORDS[::-1]), 8)),
        ("key", tokenizer(framed=False)),
        ("key", tokenizer(types=False)),
    ],
)
def test_another_text_tokenizer_or_length_is_not_found(tmp_path, key, other):
    rows = Counting(texts("a b", "c"))
    tokenize(rows, tokenizer(), "key", tmp_path)
    tokenize(rows, other, key, tmp_path)
    assert rows.asked == 2


def test_texts_without_a_key_are_not_kept(tmp_path):
    tokenize(texts("a"), tokenizer(), None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_unfinished_is_left_in_the_cache(tmp_path):
    def stopped():
        yield ("a",)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(stopped(), tokenizer(), "key", tmp_path)
    tokenize(texts("a"), tokenizer(), "key", tmp_path)
    assert [len(path.name) for path in tmp_path.iterdir()] == [40]


def damage_facts(folder):
    (folder / "facts.json").write_text("{")


def damage_kind(folder):
    (folder / "facts.json").write_text("[]")


def damage_starts(folder):
    (folder / "starts.npy").write_bytes(b"")


def damage_start_numbers(folder):
    np.save(folder / "starts.npy", np.array([0, 5, 3, 7]))


def damage_size(folder):
    (folder / "tokens.bin").write_bytes((folder / "tokens.bin").read_bytes()[:-1])


def damage_bit(folder):
    whole = bytearray((folder / "tokens.bin").read_bytes())
    whole[2] ^= 1
    (folder / "tokens.bin").write_bytes(whole)


def damage_types(folder):
    (folder / "types.bin").unlink()


@pytest.mark.parametrize(
    "damage", [damage_facts, damage_kind, damage_starts, damage_start_numbers, damage_size, damage_bit, damage_types]
)
def test_a_damaged_entry_is_ignored_and_written_anew(tmp_path, damage):
    rows = Counting(texts("a b", "c"))
    whole = listed(tokenize(rows, tokenizer(), "key", tmp_path))
    (folder,) = tmp_path.iterdir()
    damage(folder)
    assert listed(tokenize(rows, tokenizer(), "key", tmp_path)) == whole
    assert listed(tokenize(rows, tokenizer(), "key", tmp_path)) == whole
    assert rows.asked == 2


def test_an_entry_that_another_run_wrote_meanwhile_is_used(tmp_path):
    def slow():
        tokenize(texts("a b"), tokenizer(), "key", tmp_path)
        yield ("a b",)

    assert listed(tokenize(slow(), tokenizer(), "key", tmp_path)) == [[2, A, B, 3]]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    assert listed(tokenize(texts("a"), tokenizer(), "key", tmp_path / "file" / "cache")) == [[2, A, 3]]


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokens, "_append", full)
    with pytest.raises(MtlError, match=r"No space left on device\): make space, or name another folder in MTL_CACHE"):
        tokenize(texts("a"), tokenizer(), "key", tmp_path)


def test_the_folder_is_that_of_the_environment(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("MTL_CACHE", "")
    assert cache_folder() is None
    monkeypatch.delenv("MTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert str(cache_folder()) == "/c/mtlcli"


def test_memory_does_not_grow_with_the_number_of_texts():
    def peak(chunks):
        tracemalloc.start()
        try:
            found = tokenize((("a b c d e f",) for _ in range(chunks * CHUNK)), tokenizer(), None, None)
            return len(found.starts) - 1, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (few, small), (many, large) = peak(1), peak(8)
    assert many == 8 * few
    assert large < 1.7 * small  # 8 bytes a text are kept, and one chunk at a time


def test_a_file_replaced_between_its_two_readings_does_not_reach_the_cache(tmp_path):
    path, cache = tmp_path / "train.tsv", tmp_path / "tokens"
    first = "text\tlabel\na b\tx\nc d\ty\n"
    path.write_text(first)
    task = registry.load("tasks", "classification", "test")("t")

    def split():
        return load_task("t", TaskConfig(train=str(path)), task, data=None, sample=False, seed=1).splits["train"]

    before = split()
    path.write_text("text\tlabel\na b\tx\nc c\ty\n")  # as many rows, other texts
    with pytest.raises(MtlError, match=r"train\.tsv: changed while it was being read; start again"):
        tokenize_split(before, tokenizer(), cache)
    assert list(cache.iterdir()) == []
    path.write_text(first)
    right = tokenize_split(split(), tokenizer(), cache)
    again = tokenize_split(split(), tokenizer(), cache)  # from the cache
    assert listed(right.sides[0]) == listed(again.sides[0])
    assert listed(right.sides[0])[1][1:3] == [A + 2, A + 3]
