"""The vocabulary of `tiny`: merges worked out by hand, and the same whatever the order of the words."""

from collections import Counter

from mtlcli.encoders.wordpiece import learn_vocabulary


def test_merges_by_hand():
    # characters: a ##b ##c; a+##b occurs 5 times, then ab+##c 3 times
    assert learn_vocabulary(Counter({"ab": 2, "abc": 3}), 100, ["[UNK]"]) == ["[UNK]", "##b", "##c", "a", "ab", "abc"]


def test_it_stops_at_the_size_asked_for():
    assert learn_vocabulary(Counter({"ab": 2, "abc": 3}), 5, ["[UNK]"]) == ["[UNK]", "##b", "##c", "a", "ab"]


def test_a_pair_that_occurs_once_is_not_merged():
    assert learn_vocabulary(Counter({"xy": 1}), 100, []) == ["##y", "x"]


def test_ties_go_to_the_alphabet_and_not_to_the_order_of_the_words():
    words = {"cd": 4, "ab": 4, "efg": 4, "hab": 2}
    found = learn_vocabulary(Counter(words), 100, [])
    assert found == learn_vocabulary(Counter(dict(reversed(words.items()))), 100, [])
    assert found.index("ab") < found.index("cd")


def test_a_doubled_letter_is_merged_once_from_the_left():
    assert "##aa" in learn_vocabulary(Counter({"baaa": 5}), 100, [])
