"""Words as tokens: which tokens a word has, and windows of long texts, by hand."""

import numpy as np
import pytest

from mtlcli.data.encodings import BadText, WordByWord
from mtlcli.data.tokenizer import Pieces, Tokenizer
from mtlcli.data.windows import pieces_of_words, windows_of
from mtlcli.tasks.words import Words
from words import word_tokenizer

WORDS = list("abcdefghij")
A = 4  # number of the first word


def tokenizer(max_length: int) -> Tokenizer:
    return Tokenizer(word_tokenizer(WORDS), max_length)


def pieces(ids: list[int], *spans: tuple[int, int]) -> Pieces:
    return Pieces(np.array(ids), np.array([a for a, _ in spans]), np.array([b for _, b in spans]))


def test_a_token_belongs_to_the_first_word_that_it_covers_and_spaces_to_the_word_behind_them():
    words = Words.joined(["don't", "go"])  # characters 0-5 and 6-8
    ids, first, last = pieces_of_words(words, pieces([7, 8, 9, 10], (0, 3), (3, 5), (5, 6), (6, 8)), unknown=1)
    assert (ids.tolist(), first.tolist(), last.tolist()) == ([7, 8, 9, 10], [0, 2], [1, 3])


def test_tokens_behind_the_last_word_belong_to_it():
    ids, first, last = pieces_of_words(Words.joined(["a", "b"]), pieces([7, 8, 9], (0, 1), (2, 3), (3, 4)), unknown=1)
    assert (ids.tolist(), first.tolist(), last.tolist()) == ([7, 8, 9], [0, 1], [0, 2])


def test_words_can_share_the_first_token_of_a_text():
    ids, first, last = pieces_of_words(Words.cut("it's"), pieces([7], (0, 4)), unknown=1)
    assert (ids.tolist(), first.tolist(), last.tolist()) == ([7], [0, 0, 0], [0, 0, 0])


def test_a_word_without_a_token_gets_the_unknown_one_at_its_place():
    words = Words.joined(["a", "\u00ad", "\u00ad", "b"])
    ids, first, last = pieces_of_words(words, pieces([7, 8], (0, 1), (6, 7)), unknown=1)
    assert (ids.tolist(), first.tolist(), last.tolist()) == ([7, 1, 1, 8], [0, 1, 2, 3], [0, 1, 2, 3])


def test_words_of_raw_text_can_share_a_token():
    words = Words.cut("it's")  # it ' s
    ids, first, last = pieces_of_words(words, pieces([7, 8], (0, 2), (2, 4)), unknown=1)
    assert (ids.tolist(), first.tolist(), last.tolist()) == ([7, 8], [0, 1, 1], [0, 1, 1])


def test_windows_overlap_and_a_word_is_read_where_its_shorter_context_is_longest():
    first = np.arange(10)  # ten words of one token
    windows = windows_of(first, first, 10, room=6, overlap=2)
    assert windows.tokens.tolist() == [[0, 6], [4, 10]]
    # Word 4 has 1 token behind it in the first window and none before it in the second; word 5 the other way round.
    assert windows.of_item.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_windows_begin_and_end_between_words():
    first, last = np.array([0, 3, 5, 8]), np.array([2, 4, 7, 8])  # words of 3, 2, 3 and 1 tokens
    windows = windows_of(first, last, 9, room=6, overlap=2)
    assert windows.tokens.tolist() == [[0, 5], [3, 9]]
    assert windows.of_item.tolist() == [
        0,
        0,
        1,
        1,
    ]  # word 1 stands at the border of both, and the earlier window counts


def test_a_word_longer_than_a_window_keeps_its_first_tokens():
    first, last = np.array([0, 2, 12]), np.array([1, 11, 13])
    windows = windows_of(first, last, 14, room=5, overlap=2)
    assert windows.tokens.tolist() == [[0, 2], [2, 7], [12, 14]]
    assert windows.of_item.tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_every_word_is_read_whole_and_once_and_windows_fit(seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5, size=random.integers(1, 60))
    last = sizes.cumsum() - 1
    first = last - sizes + 1
    room, overlap = int(random.integers(5, 20)), int(random.integers(0, 4))
    windows = windows_of(first, last, int(sizes.sum()), room, overlap)
    starts, ends = windows.tokens.T
    assert ((ends - starts) <= room).all()
    assert (first >= starts[windows.of_item]).all() and (last < ends[windows.of_item]).all()
    assert (np.diff(windows.of_item) >= 0).all()


def test_no_window_is_read_for_words_that_the_one_before_holds_too():
    # From word 1 on, a window of 6 tokens would end where the first one does, because word 2 has 5 tokens.
    windows = windows_of(np.array([0, 2, 4]), np.array([1, 3, 8]), 9, room=6, overlap=2)
    assert windows.tokens.tolist() == [[0, 4], [4, 9]]


def test_a_word_that_shares_its_last_token_is_read_where_a_window_holds_it_whole():
    # Words 1 and 2 share token 4: the first window ends before it and cuts word 1, with which the second one begins.
    windows = windows_of(np.array([0, 3, 4, 5]), np.array([2, 4, 4, 6]), 7, room=4, overlap=1)
    assert windows.tokens.tolist() == [[0, 4], [3, 7]]
    assert windows.of_item.tolist() == [0, 1, 1, 1]


def naive_windows(first: list[int], last: list[int], tokens: int, room: int, overlap: int):
    """Follow the docstring of `windows_of` window by window and item by item."""
    borders = sorted({*first, tokens} - {0})

    def end_of(start: int) -> int:
        return max((border for border in borders if start < border <= start + room), default=start + room)

    if tokens <= room:
        return [[0, tokens]], [0] * len(first)
    windows = [[0, end_of(0)]]
    while any(border >= windows[-1][1] and border < tokens for border in borders):
        start, end = windows[-1]
        following = min(border for border in borders if border >= end)
        common = [border for border in borders if start < border <= end - overlap and end_of(border) > end]
        start = max(common, default=following)
        windows.append([start, end_of(start)])
    of_item = []
    for begin, finish in zip(first, last, strict=True):
        ranks = []
        for start, end in windows:
            if not start <= begin < end:
                ranks.append((0, 0))
            elif finish >= end:
                ranks.append((1, 0))
            else:
                ranks.append((2, min(begin - start, end - 1 - finish)))
        of_item.append(ranks.index(max(ranks)))
    return windows, of_item


@pytest.mark.parametrize("seed", range(20))
def test_windows_are_those_of_a_plain_loop_also_for_long_words_and_shared_tokens(seed):
    random = np.random.default_rng(seed)
    for _ in range(20):
        first, last, end = [], [], 0
        for _ in range(random.integers(1, 20)):
            start = end - (end > 0 and random.random() < 0.2)
            end = start + 1 + int(random.integers(0, 9 if random.random() < 0.2 else 3))
            first.append(start)
            last.append(end - 1)
        room = int(random.integers(2, 9))
        overlap = int(random.integers(0, room))
        windows = windows_of(np.array(first), np.array(last), end, room, overlap)
        expected = naive_windows(first, last, end, room, overlap)
        assert (windows.tokens.tolist(), windows.of_item.tolist()) == expected


def test_a_long_text_becomes_several_sequences_of_one_row():
    encoding = WordByWord(overlap=1)
    rows = [encoding.texts([list("abcdefg")]), encoding.texts([["b", "zz"]])]
    sequences = encoding.tokenize(rows, tokenizer(6))  # four tokens of text
    parts = [
        sequences.tokens[start:end].tolist() for start, end in zip(sequences.starts, sequences.starts[1:], strict=False)
    ]
    assert parts == [[2, A, A + 1, A + 2, A + 3, 3], [2, A + 3, A + 4, A + 5, A + 6, 3], [2, A + 1, 1, 3]]
    assert (sequences.rows.tolist(), len(sequences), sequences.truncated) == ([0, 2, 3], 2, 0)
    items = sequences.items
    assert items.starts.tolist() == [0, 7, 9]
    assert items["sequence"].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert items["first"].tolist() == [1, 2, 3, 4, 2, 3, 4, 1, 2]
    assert items["span"][:2].tolist() == [[0, 1], [2, 3]]
    assert sequences.lengths().tolist() == [12, 4]


@pytest.mark.parametrize(
    ("value", "problem"),
    [(["a", ""], "word 1 .* is empty"), (["a", {"b": 1}], "word 1 .* is an object"), ({"a": 1}, "found an object")],
)
def test_a_list_of_something_else_than_words_is_refused(value, problem):
    with pytest.raises(BadText, match=problem):
        WordByWord().texts([value])


def test_a_text_of_nothing_is_empty():
    encoding = WordByWord()
    assert encoding.empty(encoding.texts(["  "])) == encoding.empty(encoding.texts([[]])) == [0]
