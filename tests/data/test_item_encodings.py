"""Choices, marked spans and contexts of questions as token sequences, counted by hand: a word is a token."""

import pytest

from mtlcli.config.schema import TaskConfig
from mtlcli.data.encodings import BadText, TooLong, encoding_of
from mtlcli.data.tokenizer import Tokenizer
from words import word_tokenizer

WORDS = [*"abcdefghij", "@", "#"]
A, AT, HASH = 4, 14, 15
CLS, SEP = 2, 3


def encoding(name: str, **options):
    return encoding_of(TaskConfig.model_validate({"kind": "classification", "encoding": name, **options}))


def tokenized(name: str, rows: list[list], max_length: int = 32, **options):
    reads = encoding(name, **options)
    texts = [reads.texts(row) for row in rows]
    return reads.tokenize(texts, Tokenizer(word_tokenizer(WORDS), max_length))


def sequences_of(tokens) -> list[list[int]]:
    return [tokens.tokens[start:end].tolist() for start, end in zip(tokens.starts, tokens.starts[1:], strict=False)]


def refused(name: str, values: list, message: str, **options) -> None:
    with pytest.raises(BadText, match=message):
        encoding(name, **options).texts(values)


# Choices


def test_each_choice_is_a_pair_with_context_and_question_and_is_an_item():
    tokens = tokenized("choices", [["a b", "c", ["d", "e f"]], ["g", "", ["h", "i", "j"]]])
    assert sequences_of(tokens) == [
        [CLS, A, A + 1, A + 2, SEP, A + 3, SEP],
        [CLS, A, A + 1, A + 2, SEP, A + 4, A + 5, SEP],
        *([CLS, A + 6, SEP, A + choice, SEP] for choice in (7, 8, 9)),
    ]
    assert tokens.rows.tolist() == [0, 2, 5]
    items = tokens.items
    assert items.starts.tolist() == [0, 2, 5]
    assert items["sequence"].tolist() == [0, 1, 0, 1, 2]
    assert (items["first"].tolist(), items["last"].tolist()) == ([0] * 5, [6, 7, 4, 4, 4])
    assert tokens.types[:7].tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_choices_can_stand_in_columns_and_a_context_needs_no_question():
    reads = encoding("choices", choices=["one", "two"])
    assert reads.texts(["a", "b", "c"]) == ("a", "", "b", "c")
    assert reads.texts(["a", "q", "b", "c"]) == ("a", "q", "b", "c")


def test_of_a_row_that_is_too_long_the_end_of_the_context_is_left_out():
    tokens = tokenized("choices", [["a b c d e", "f g", ["h", "i j"]]], max_length=8)  # 5 tokens besides special ones
    assert sequences_of(tokens) == [
        [CLS, A, A + 1, A + 5, A + 6, SEP, A + 7, SEP],
        [CLS, A, A + 5, A + 6, SEP, A + 8, A + 9, SEP],
    ]
    assert (tokens.cut.tolist(), tokens.truncated) == ([True], 1)
    with pytest.raises(
        TooLong, match=r"choice 1 \(counted from 0\) and the question have 6 tokens; the encoder reads 5"
    ) as failure:
        tokenized("choices", [["a", "b", ["c", "d"]], ["a", "b c", ["d", "e f g h"]]], max_length=8)
    assert failure.value.row == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b", "c"], "found text; expected a list of choices"),
        (["a", "b", ""], "is missing; expected a list of choices"),
        (["a", "b", {"text": ["c", "d"]}], "found an object; expected a list of choices"),
        (["a", "b", ["c"]], r"found 1 choice\(s\); expected two or more"),
        (["a", "b", ["c", " "]], r"choice 1 \(counted from 0\) is empty"),
        (["a", "b", ["c", 4]], r"choice 1 \(counted from 0\) is a number; expected text"),
        ([["a"], "b", ["c", "d"]], "found a list; expected text"),
    ],
)
def test_rows_that_are_no_choices_are_refused(values, message):
    refused("choices", values, message)


# Marked spans


def test_markers_stand_around_head_and_tail_and_belong_to_their_items():
    tokens = tokenized("marked", [["a <e1>b c</e1> d <e2>e</e2>"], ["<e2>a</e2> b <e1>c</e1>"]])
    assert sequences_of(tokens) == [
        [CLS, A, AT, A + 1, A + 2, AT, A + 3, HASH, A + 4, HASH, SEP],
        [CLS, HASH, A, HASH, A + 1, AT, A + 2, AT, SEP],
    ]
    # Head before tail, wherever they stand.
    assert (tokens.items["first"].tolist(), tokens.items["last"].tolist()) == ([2, 7, 5, 1], [5, 9, 7, 3])


def test_spans_of_words_and_of_characters_mark_the_same_text():
    reads = encoding("marked", markers=False)
    of_words = reads.texts([["a", "bb", "c"], [1, 2], [2, 3]])
    assert of_words == reads.texts(["a bb c", [2, 4], {"start": 5, "end": 6}]) == reads.texts(["a bb c", "2 4", "5-6"])
    assert of_words == reads.texts(["a <e1>bb</e1> <e2>c</e2>"])
    tokens = tokenized("marked", [["a <e1>b c</e1> d <e2>e</e2>"]], markers=False)
    assert sequences_of(tokens) == [[CLS, *range(A, A + 5), SEP]]
    assert (tokens.items["first"].tolist(), tokens.items["last"].tolist()) == ([2, 5], [3, 5])


def test_a_long_text_is_cut_around_its_spans():
    text = "a b c d <e1>e</e1> f <e2>g</e2> h i j"
    tokens = tokenized("marked", [[text]], max_length=7, markers=False)  # 5 tokens besides special ones
    assert sequences_of(tokens) == [[CLS, *range(A + 3, A + 8), SEP]]
    assert (tokens.items["first"].tolist(), tokens.cut.tolist()) == ([2, 4], [True])
    at_the_end = tokenized("marked", [["a b c d e f g <e1>h</e1> <e2>i</e2>"]], max_length=7, markers=False)
    assert sequences_of(at_the_end) == [[CLS, *range(A + 4, A + 9), SEP]]
    with pytest.raises(TooLong, match="head and tail are 6 tokens apart; the encoder reads 5"):
        tokenized("marked", [["<e1>a</e1> b c d e <e2>f</e2>"]], max_length=7, markers=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a <e1>b</e1> c"], "found <e2> 0 times"),
        (["<e1>a</e1> <e1>b</e1> <e2>c</e2>"], "found <e1> 2 times"),
        (["<e1> </e1> <e2>c</e2>"], "<e1> marks nothing"),
        ([["a", "b"], [0, 1], [1, 3]], r"found \[1, 3\]; expected a span in the 2 words of the text"),
        ([["a", "b"], [0, 2], [1, 2]], "head and tail overlap"),
        (["a b", [0, 1], "x"], r"expected a span as \[first, end\]"),
        (["a b", [1, 2], [2, 3]], "the span holds only spaces"),
        ([["a", 3], [0, 1], [1, 2]], "found a list; expected text or a list of words"),
    ],
)
def test_spans_that_cannot_be_marked_are_refused(values, message):
    refused("marked", values, message)


# Answers in a context


def test_the_places_of_an_answer_are_the_first_token_and_those_of_the_context():
    tokens = tokenized("spans", [["a b", "c d"]])
    assert sequences_of(tokens) == [[CLS, A, A + 1, SEP, A + 2, A + 3, SEP]]
    assert tokens.items["first"].tolist() == [0, 4, 5]
    assert tokens.items["span"].tolist() == [[-1, -1], [0, 1], [2, 3]]


def test_a_long_context_is_read_in_windows_that_overlap():
    tokens = tokenized("spans", [["a", "b c d e f"], ["a", "b"]], max_length=7, overlap=1)  # 3 tokens of the context
    assert sequences_of(tokens) == [
        [CLS, A, SEP, A + 1, A + 2, A + 3, SEP],
        [CLS, A, SEP, A + 3, A + 4, A + 5, SEP],
        [CLS, A, SEP, A + 1, SEP],
    ]
    assert tokens.rows.tolist() == [0, 2, 3]
    assert tokens.items["sequence"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert tokens.items["first"].tolist() == [0, 3, 4, 5, 0, 3, 4, 5, 0, 3]
    assert tokens.items["span"][5].tolist() == [4, 5]  # d again
    assert tokens.cut.tolist() == [False, False]


def test_a_question_takes_at_most_half_of_a_window():
    tokens = tokenized("spans", [["a b c d e", "f g"]], max_length=9)  # 6 besides special ones
    assert sequences_of(tokens) == [[CLS, A, A + 1, A + 2, SEP, A + 5, A + 6, SEP]]
    assert tokens.cut.tolist() == [True]
