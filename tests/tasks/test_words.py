"""Texts as words."""

from mtlcli.tasks.words import Words, content


def test_raw_text_is_cut_at_letters_or_at_spaces():
    text = "Don't go, 3.5% café!"
    assert Words.cut(text).words == ["Don", "'", "t", "go", ",", "3", ".", "5", "%", "café", "!"]
    assert Words.cut(text, "spaces").words == ["Don't", "go,", "3.5%", "café!"]
    assert Words.cut(text).spans[2] == (4, 5)


def test_scripts_without_spaces_are_cut_into_characters_and_marks_stay_with_their_letter():
    assert Words.cut("東京 go").words == ["東", "京", "go"]
    assert Words.cut("हिन्दी cafe\u0301").words == ["हिन्दी", "cafe\u0301"]


def test_words_of_a_file_keep_spaces_inside_and_are_told_apart_by_their_borders():
    words = Words.joined(["New York", "is"])
    assert (words.text, words.words) == ("New York is", ["New York", "is"])
    assert content(words) != content(Words.joined(["New", "York is"]))
    assert content("plain") == "plain"
