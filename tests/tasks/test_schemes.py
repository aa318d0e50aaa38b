"""Tagging schemes: spans, conversion, what may follow what, and the best sequence, each worked out by hand or by brute force."""

from itertools import pairwise, product

import numpy as np
import pytest

from mtlcli.tasks.schemes import (
    Structure,
    best_tags,
    closed_tags,
    detect,
    parts_of,
    spans_of,
    tags_of,
    violations,
)


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        ([["B-A", "I-A", "O"], ["B-B"]], "bio"),
        ([["I-A", "I-A", "B-A", "O"]], "iob1"),  # B only splits, and a span begins with I
        ([["I-A", "O", "I-B"]], "io"),
        ([["B-A", "E-A", "O", "S-B"]], "iobes"),
        ([["B-A", "L-A", "O", "U-B"]], "bilou"),
        ([["NN", "-LRB-", ":", "O"]], "plain"),
        ([["O"] * 40 + ["B-A", "B_A"]], "bio"),  # a slip of the pen in 42 tags
        ([["I-A", "I-A", "B-A", "I-A", "B-A", "O"]], "iob1"),
        ([["B-A", "I-A", "I-A", "B-A", "O"]], "bio"),  # the first B begins a span
        ([["O"] * 15 + ["B-A"] * 2 + ["B_A"] * 3], "plain"),  # 3 of 20 are not slips any more
        ([["B-A", "I-A"]], "plain"),  # without O nothing says that these are spans
        ([], "plain"),
    ],
)
def test_the_scheme_is_what_the_tags_show(sentences, scheme):
    assert detect(sentences) == scheme


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-A I-A O B-B", [("A", 0, 2), ("B", 3, 4)]),
        ("I-A I-A B-A I-B", [("A", 0, 2), ("A", 2, 3), ("B", 3, 4)]),
        ("B-A E-A S-A O S-B", [("A", 0, 2), ("A", 2, 3), ("B", 4, 5)]),
        ("B-A L-A U-A", [("A", 0, 2), ("A", 2, 3)]),
        ("S-A S-A", [("A", 0, 1), ("A", 1, 2)]),  # conlleval itself, which knows no S, counts one
        ("B-creative-work I-creative-work", [("creative-work", 0, 2)]),
        ("O O", []),
    ],
)
def test_tags_as_spans(tags, spans):
    assert spans_of(tags.split()) == spans


def test_a_tag_is_a_prefix_and_a_type_or_o_alone():
    assert parts_of("B-creative-work") == ("B", "creative-work")
    assert parts_of("O") == ("O", "")
    for tag in ("O-ORG", "X-ORG", "B-", "B", "B_ORG", "ORG", ""):
        with pytest.raises(ValueError, match=rf'^tag "{tag}": expected O or PREFIX-TYPE'):
            parts_of(tag)


def test_spans_as_tags_in_both_schemes_and_back():
    spans = [("A", 0, 1), ("A", 1, 4), ("B", 5, 7)]
    assert tags_of(spans, 7) == ["B-A", "B-A", "I-A", "I-A", "O", "B-B", "I-B"]
    assert tags_of(spans, 7, "iobes") == ["S-A", "B-A", "I-A", "E-A", "O", "B-B", "E-B"]
    assert spans_of(tags_of(spans, 7)) == spans_of(tags_of(spans, 7, "iobes")) == spans


def test_an_i_tag_that_continues_nothing_is_counted():
    assert violations(["I-A", "I-A", "O", "B-B", "I-A"]) == (2, 3)


@pytest.mark.parametrize("scheme", ["bio", "iobes"])
def test_allowed_sequences_are_those_that_spans_can_give(scheme):
    tags = closed_tags(["A", "B"], scheme)
    structure = Structure.of(tags, scheme)
    for length in (1, 2, 3):
        for sequence in product(range(len(tags)), repeat=length):
            names = [tags[index] for index in sequence]
            allowed = structure.begin[sequence[0]] and structure.end[sequence[-1]]
            allowed = allowed and all(structure.follow[a, b] for a, b in pairwise(sequence))
            assert allowed == (tags_of(spans_of(names), length, scheme) == names), names


@pytest.mark.parametrize("scheme", ["plain", "bio", "iobes"])
def test_the_best_sequence_is_that_of_brute_force(scheme):
    random = np.random.default_rng(3)
    tags = closed_tags(["A"], scheme) if scheme != "plain" else ("w", "x", "y", "z")
    structure, size = Structure.of(tags, scheme), len(tags)
    lengths = [5, 1, 0, 3]
    starts = np.cumsum([0, *lengths])
    scores = random.normal(size=(starts[-1], size))
    transitions, begin, end = random.normal(size=(size, size)), random.normal(size=size), random.normal(size=size)
    best = best_tags(scores, starts, structure, transitions, begin, end)
    for first, last in pairwise(starts):
        if last == first:
            continue
        paths = {}
        for path in product(range(size), repeat=last - first):
            allowed = structure.begin[path[0]] and structure.end[path[-1]]
            if allowed and all(structure.follow[a, b] for a, b in pairwise(path)):
                emitted = sum(scores[first + step, tag] for step, tag in enumerate(path))
                paths[path] = (
                    begin[path[0]] + emitted + sum(transitions[a, b] for a, b in pairwise(path)) + end[path[-1]]
                )
        assert tuple(best[first:last]) == max(paths, key=paths.__getitem__)


def test_two_words_by_hand():
    # Paths 00, 01, 10, 11 score 1.5, 2.5, 0 and 3: the last is best.
    scores, transitions = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[0.5, -0.5], [0.0, 1.0]])
    structure = Structure.of(("x", "y"), "plain")
    assert best_tags(scores, np.array([0, 2]), structure, transitions).tolist() == [1, 1]
