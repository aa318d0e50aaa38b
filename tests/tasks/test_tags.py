"""One tag for each word: reading labels of every form, and predictions in and out."""

import json

import numpy as np
import pytest

from mtlcli.tasks.tags import UNKNOWN, Tags
from mtlcli.tasks.target_base import BadLabel
from mtlcli.tasks.targets import Ragged, target_of
from mtlcli.tasks.words import Words
from mtlcli.testing import check_target


def raw(label, words="EU rejects German lamb"):
    text = Words.joined(words.split()) if isinstance(words, str) else words
    return {"label": label, "texts": (text,)}


def names() -> Tags:
    return Tags().fit([raw("B-ORG O B-MISC I-MISC".split())])


@pytest.mark.parametrize(
    "target",
    [
        names(),
        Tags(train_scheme="iobes").fit([raw("B-ORG O B-MISC I-MISC".split())]),
        Tags(scheme="plain").fit([raw("N V A N".split())]),
    ],
)
def test_every_target_keeps_the_contract(target):
    check_target(target)


def test_all_tags_of_every_type_can_be_predicted_whether_training_has_them_or_not():
    target = names()
    assert target.labels == ("O", "B-MISC", "I-MISC", "B-ORG", "I-ORG")
    assert target.parse(raw("B-ORG O B-MISC I-MISC".split()))[:, 0].tolist() == [3, 0, 1, 2]
    assert (target.scheme, target.types) == ("bio", ("MISC", "ORG"))
    assert Tags(train_scheme="iobes").fit([raw("B-A O O O".split())]).labels == ("O", "B-A", "I-A", "E-A", "S-A")


def test_other_schemes_are_converted():
    target = Tags().fit([raw("I-A I-A B-A O".split())])
    assert (target.scheme, target.parse(raw("I-A I-A B-A O".split()))[:, 0].tolist()) == ("iob1", [1, 2, 1, 0])
    target = Tags(train_scheme="iobes").fit([raw("B-A I-A O B-B".split())])
    labels = [target.labels[index] for index in target.parse(raw("B-A I-A O B-B".split()))[:, 0]]
    assert labels == ["B-A", "E-A", "O", "S-B"]


def test_a_word_without_a_tag_is_unknown_and_a_tag_that_training_never_saw_is_no_label_to_learn():
    target = names()
    gold = target.pack([target.parse(raw(["B-ORG", None, "B-LOC", "I-LOC"]))])
    assert gold["tag"][1] == UNKNOWN and (gold["tag"][2:] >= 5).all()
    assert target.known(gold).tolist() == [True, False, False, False]
    assert target.units(gold).tolist() == [1.0]
    words = ["EU", "rejects", "German", "lamb"]
    assert target.gold_json(gold, 0) == {"words": words, "tags": ["B-ORG", None, "B-LOC", "I-LOC"]}
    assert target.remarks([], gold, "tags", training=False) == [
        "2 words have a tag unseen in training, counted as wrong: 'B-LOC' (1), 'I-LOC' (1)"
    ]


def test_spans_of_characters_become_tags():
    words = Words.cut("EU rejects German lamb.")
    spans = [{"start": 0, "end": 2, "type": "ORG"}, [11, 23, "MISC"]]
    target = Tags().fit([raw(spans, words)])
    assert [target.labels[index] for index in target.parse(raw(spans, words))[:, 0]] == [
        "B-ORG", "O", "B-MISC", "I-MISC", "I-MISC",
    ]  # fmt: skip
    assert target.parse(raw([], words))[:, 0].tolist() == [0] * 5


@pytest.mark.parametrize(
    ("label", "words", "problem"),
    [
        (["O", "O"], "EU rejects German", ": found 2 tags for 3 words"),
        (["O", "", "O"], "EU rejects German", ': the tag of word 1 ("rejects") is empty'),
        ({"a": 1}, "EU", ": found an object; expected a list of tags, or of spans with start, end and type"),
        ([[0, 2, "A"], [0, 4, "B"]], Words.cut("EU go"), ': entities[1] 0-4 "EU g": begins or ends inside a word; set align: '
         "expand or contract"),
        ([[2, 3, "A"]], Words.cut("EU go"), ': entities[0] 2-3 " ": covers no word'),
        ([[0, 9, "A"]], Words.cut("EU go"), ": entities[0] 0-9: outside the text of 5 characters"),
        ([[0, 5, "A"], [3, 5, "B"]], Words.cut("EU go"), ": the spans A and B overlap or are nested; keep one of them"),
        ([{"start": 0}], Words.cut("EU go"), ": entities[0]: expected start, end and type"),
    ],
)  # fmt: skip
def test_a_label_that_cannot_be_used_is_named(label, words, problem):
    with pytest.raises(BadLabel) as caught:
        Tags().parse(raw(label, words))
    assert str(caught.value).startswith(problem)


def test_spans_inside_words_are_aligned_on_request():
    words, label = Words.cut("Paris-based firm"), [[0, 13, "A"]]  # Paris - based firm
    for align, tags in (("expand", [1, 2, 2, 2]), ("contract", [1, 2, 2, 0])):
        target = Tags(align=align).fit([raw(label, words)])
        assert target.parse(raw(label, words))[:, 0].tolist() == tags


def test_a_malformed_tag_of_a_known_scheme_is_named():
    with pytest.raises(BadLabel, match='tag "B_ORG": expected O or PREFIX-TYPE as in B-ORG, I-ORG'):
        names().parse(raw(["B_ORG", "O", "O", "O"]))


def test_an_i_tag_that_continues_nothing_begins_a_span_unless_that_is_an_error():
    target, label = names(), ["I-ORG", "O", "O", "I-MISC"]
    assert target.parse(raw(label))[:, 0].tolist() == [3, 0, 0, 1]
    gold = target.pack([target.parse(raw(label))])
    assert target.remarks([raw(label)], gold, "tags", training=True)[0].startswith("2 of 2 I- tags continue no span")
    strict = Tags(strict=True).fit([raw("B-ORG O B-MISC I-MISC".split())])
    with pytest.raises(BadLabel, match="continues no span"):
        strict.parse(raw(label))


def test_numbers_are_tags_where_the_configuration_lists_them():
    target = Tags().declare(["O", "B-A", "I-A"], None, "tasks.t").fit([raw(["1", "2", "0", "0"])])
    assert (target.labels, target.parse(raw(["1", "2", "0", "0"]))[:, 0].tolist()) == (
        ("O", "B-A", "I-A"),
        [1, 2, 0, 0],
    )


def test_predictions_are_words_tags_and_spans_of_the_text():
    target, words = names(), Words.cut("EU rejects German lamb.")
    predicted = Ragged({"tag": np.array([3, 0, 1, 2, 0])}, np.array([0, 5]))
    assert target.as_json(predicted, 0, (words,)) == {
        "words": ["EU", "rejects", "German", "lamb", "."],
        "tags": ["B-ORG", "O", "B-MISC", "I-MISC", "O"],
        "entities": [
            {"start": 0, "end": 2, "type": "ORG", "text": "EU"},
            {"start": 11, "end": 22, "type": "MISC", "text": "German lamb"},
        ],
    }
    assert target.as_cells(predicted, 0, (words,)) == {
        "tags": "B-ORG O B-MISC I-MISC O", "entities": "ORG:0-2 MISC:11-22",
    }  # fmt: skip


def test_an_ensemble_averages_words_and_then_finds_the_best_allowed_sequence():
    target = names()  # O, B-MISC, I-MISC, B-ORG, I-ORG
    first = np.array([[0.1, 0.6, 0.3, 0.0, 0.0], [0.2, 0.0, 0.8, 0.0, 0.0]])
    second = np.array([[0.0, 0.2, 0.8, 0.0, 0.0], [0.1, 0.0, 0.9, 0.0, 0.0]])
    starts = np.array([0, 2])
    votes = [target.decoded(first, starts), target.decoded(second, starts)]
    # I-MISC has the highest mean for the first word, .55, and cannot begin a sentence.
    assert target.average(votes, [target, target])["tag"].tolist() == [1, 2]
    other = target_of(json.loads(json.dumps({**target.record(), "tags": ["O", "B-ORG", "I-ORG", "B-MISC", "I-MISC"]})))
    assert target.average([other.decoded(first[:, [0, 3, 4, 1, 2]], starts)], [other])["tag"].tolist() == [1, 2]
    assert target.agree(other) == ""


def test_a_tag_that_labels_does_not_name_is_refused_in_every_row():
    target = Tags().declare(["ORG", "MISC"], None, "tasks.t").fit([raw("B-ORG O B-MISC I-MISC".split())])
    with pytest.raises(BadLabel, match="none of those that labels names: spans of "):
        target.parse(raw("B-LOC O O O".split()))


def test_runs_that_learn_other_prefixes_do_not_agree():
    rows = [raw("B-ORG O B-MISC I-MISC".split())]
    first, second = Tags().fit(rows), Tags(train_scheme="iobes").fit(rows)
    assert "train_scheme: iobes" in first.agree(second) and first.agree(Tags().fit(rows)) == ""
