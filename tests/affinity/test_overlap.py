"""Words, labels of words, and rows that two tasks have in common."""

from types import SimpleNamespace

import numpy as np
import pytest

from mtlcli.affinity.overlap import (
    RowTexts,
    TaskWords,
    jaccard,
    label_overlap,
    leaks,
    mutual_information,
    normalized,
    texts_of,
)

TABLES = [
    # Worked by hand, and a table of the authors' unit tests with all three of their normalizations.
    ([[3, 0], [1, 2]], (0.3147, 0.4787, None)),
    ([[3, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0], [3, 2, 2, 2]], (0.157479, 0.272107, 0.262252)),
    ([[4, 0], [0, 4]], (1.0, 1.0, 1.0)),
]


@pytest.mark.parametrize(("table", "expected"), TABLES)
def test_mutual_information_of_known_tables(table, expected):
    found = mutual_information(np.array(table, dtype=float))
    for value, known in zip(found, expected, strict=True):
        assert known is None or value == pytest.approx(known, abs=5e-5)


def test_independent_labels_share_nothing():
    assert mutual_information(np.array([[2.0, 4.0], [1.0, 2.0]]))[0] == pytest.approx(0.0, abs=1e-12)


def words(labels, vocabulary=12, each=4, seed=0, follow=True):
    """Rows of four words; with `follow`, half of the words belong to each of two labels."""
    generator = np.random.default_rng(seed)
    half = vocabulary // 2
    found = [
        generator.permutation(half)[:each] + (half * label if follow else half * generator.integers(2))
        for label in labels
    ]
    names = tuple(f"w{number}" for number in range(vocabulary))
    owners = np.repeat(np.arange(len(labels)), each)
    return TaskWords(names, np.concatenate(found), owners, np.array(labels), 2)


def test_two_data_sets_that_label_words_alike_stand_far_above_the_null():
    labels = [0, 1] * 60
    found = label_overlap(words(labels, seed=1), words(labels, seed=2), seed=3)
    # every word has one label in both: a diagonal table
    assert found.value == pytest.approx(1.0)
    assert found.words == 12
    assert found.null < 0.1
    assert found.z > 10


def test_labels_without_relation_to_the_words_are_within_the_null():
    labels = np.random.default_rng(5).integers(2, size=200).tolist()
    found = label_overlap(words(labels, seed=1, follow=False), words(labels, seed=2), seed=3)
    assert abs(found.z) < 3


def test_a_word_that_is_rare_in_one_data_set_does_not_count():
    labels = [0, 1] * 60
    first, second = words(labels, seed=1), words(labels, seed=2)
    kept = second.words != 0
    kept[np.flatnonzero(second.words == 0)[:4]] = True  # four rows are left of the first word, and five are needed
    rare = TaskWords(second.vocabulary, second.words[kept], second.owners[kept], second.clusters, 2)
    assert label_overlap(first, rare, seed=3).words == 11
    assert label_overlap(first, rare, seed=3, fewest=4).words == 12


def test_a_task_without_one_label_a_row_has_no_overlap_of_labels():
    first = words([0, 1] * 20)
    assert label_overlap(first, TaskWords(first.vocabulary, first.words, first.owners, None, 0), seed=1) is None
    assert label_overlap(first, TaskWords(("x",), np.array([0]), np.array([0]), np.array([0]), 2), seed=1) is None


def test_the_share_of_common_words():
    assert jaccard("abc", "bcd") == pytest.approx(2 / 4)
    assert jaccard("", "") == 0.0


def test_texts_are_compared_without_case_and_marks():
    assert normalized("A  Man's dog!") == normalized("a man s DOG") == "a man s dog"


def rows(*pairs):
    """Digests of rows of texts."""
    return RowTexts(
        tuple(frozenset(text.encode() for text in texts) for texts in pairs),
        tuple(b"".join(sorted(text.encode() for text in texts)) for texts in pairs),
    )


def test_a_pair_is_found_in_either_order_and_a_single_text_counts_as_shared():
    train = rows(("one", "two"), ("three", "four"))
    dev = rows(("two", "one"), ("three", "other"), ("new", "other"))
    found = leaks(train, [dev, rows(("three", "four"))])
    assert found.rows == (0, 3)
    assert (found.sharing, found.total) == (3, 4)
    assert leaks(rows(), [dev]).sharing == 0


def test_rows_are_compared_by_normalized_texts_in_any_order():
    train = SimpleNamespace(texts=lambda: iter([("A dog.", "Two cats"), ("alone",)]))
    dev = SimpleNamespace(texts=lambda: iter([("two cats!", "a  DOG"), ("Alone",), ("a dog", "three cats")]))
    found = leaks(texts_of(train), [texts_of(dev)])
    assert found.rows == (0, 1)
    assert found.sharing == 3
