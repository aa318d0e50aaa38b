import hashlib
import json
import re
from collections import Counter

import pytest

from mtlcli.tasks import sample

TASKS = {"sentiment": sample.sentiment, "paraphrase": sample.paraphrase, "similarity": sample.similarity}
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def corpus():
    return {(task, split): list(rows(split)) for task, rows in TASKS.items() for split in SPLITS}


def sentences(row):
    return [text for column, text in row.items() if column.startswith("sentence")]


def words(text):
    return re.findall(r"\w+", text.lower())


def concept_named(word):
    return next(concept for concept in sample.PEOPLE + sample.ACTIONS if word in concept)


def read_back(sentence):
    """Agent, action and patient of a sentence, found without the generator's help."""
    passive = re.fullmatch(r"The (\w+) was (\w+) by the (\w+)\.", sentence)
    active = re.fullmatch(r"The (\w+) (\w+) the (\w+)\.", sentence)
    patient_first = passive.groups() if passive else reversed(active.groups())
    patient, action, agent = map(concept_named, patient_first)
    return agent, action, patient


def test_every_row_is_the_same_on_every_machine(corpus):
    text = json.dumps(list(corpus.values()), sort_keys=True)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "13716fdc8fb6b821f9cfb777dccd8e86b6f8629435515c137dcd6ce1111d2ae1"
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_second_call_yields_the_same_rows(task, corpus):
    assert list(TASKS[task]("dev")) == corpus[task, "dev"]


def test_each_split_has_the_rows_it_promises(corpus):
    assert {(task, split): len(rows) for (task, split), rows in corpus.items()} == {
        (task, split): rows for task, splits in sample.ROWS.items() for split, rows in splits.items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_no_row_appears_twice_in_or_across_splits_whichever_sentence_comes_first(task, corpus):
    keys = [frozenset(sentences(row)) for split in SPLITS for row in corpus[task, split]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("task", "columns", "labels"),
    [
        ("sentiment", ["sentence", "sentiment"], set("01234")),
        ("paraphrase", ["sentence1", "sentence2", "is_duplicate"], {"0", "1"}),
        ("similarity", ["sentence1", "sentence2", "similarity"], {f"{half / 2:.1f}" for half in range(11)} - {"4.5"}),
    ],
)
@pytest.mark.parametrize("split", SPLITS)
def test_columns_and_labels_are_the_documented_ones(task, columns, labels, split, corpus):
    rows = corpus[task, split]
    assert {tuple(row) for row in rows} == {tuple(columns)}
    assert {row[columns[-1]] for row in rows} == labels


def test_a_sentence_is_4_to_17_words_in_sentence_case(corpus):
    texts = [text for rows in corpus.values() for row in rows for text in sentences(row)]
    assert {len(words(text)) for text in texts} <= set(range(4, 18))
    assert all(text[0].isupper() and text.endswith(".") for text in texts)


def test_the_vocabulary_is_a_few_hundred_words_all_seen_in_train(corpus):
    seen = {split: set() for split in SPLITS}
    for (_, split), rows in corpus.items():
        seen[split].update(word for row in rows for text in sentences(row) for word in words(text))
    assert 200 < len(seen["train"]) < 400
    assert seen["dev"] | seen["test"] <= seen["train"]


@pytest.mark.parametrize("split", SPLITS)
def test_guessing_one_grade_is_right_less_than_1_time_in_4(split, corpus):
    grades = Counter(row["sentiment"] for row in corpus["sentiment", split])
    assert max(grades.values()) < 0.25 * grades.total()


@pytest.mark.parametrize("split", SPLITS)
def test_half_the_pairs_are_paraphrases(split, corpus):
    duplicates = [int(row["is_duplicate"]) for row in corpus["paraphrase", split]]
    assert sum(duplicates) / len(duplicates) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("strength", "modifier", "expected"),
    [
        (1, "plain", 3),  # good
        (1, "very", 4),  # very good
        (1, "not", 1),  # not good
        (2, "not", 1),  # not superb
        (-2, "not", 3),  # not terrible
        (-2, "fairly", 1),  # fairly terrible
        (2, "barely", 2),  # barely superb
        (0, "plain", 2),  # ordinary
    ],
)
def test_a_modifier_raises_weakens_cancels_or_flips(strength, modifier, expected):
    assert sample.grade(strength, modifier) == expected


def test_not_flips_and_weakens_every_adjective():
    for strength in (-2, -1, 1, 2):
        assert sample.grade(strength, "not") - 2 == (-1 if strength > 0 else 1)


def test_good_and_not_good_end_on_opposite_sides(corpus):
    grades = {}
    for row in corpus["sentiment", "train"]:
        if match := re.fullmatch(r"The \w+ was (not good|good|not bad|bad)\.", row["sentence"]):
            grades.setdefault(match[1], set()).add(row["sentiment"])
    assert grades == {"good": {"3"}, "not good": {"1"}, "bad": {"1"}, "not bad": {"3"}}


def test_a_not_in_a_remark_flips_nothing(corpus):
    praise = re.compile(r"(We did not have to wait|It did not rain that day) and the \w+ was (\w+)\.")
    found = [
        (m[2], row["sentiment"]) for row in corpus["sentiment", "train"] if (m := praise.fullmatch(row["sentence"]))
    ]
    strength_of = {word: strength for strength, words in sample.ADJECTIVES.items() for word in words}
    assert len(found) >= 5
    assert all(int(grade) == 2 + strength_of[word] for word, grade in found)


def test_only_the_main_opinion_counts(corpus):
    adjectives = {sign: "|".join(sample.ADJECTIVES[sign] + sample.ADJECTIVES[2 * sign]) for sign in (1, -1)}
    good, bad = (rf"the \w+ was (?:very|really) (?:{adjectives[sign]})" for sign in (1, -1))
    frames = (f"{bad} but {good}", f"although {bad}, {good}", f"{good} although {bad}")
    grades = [
        row["sentiment"]
        for row in corpus["sentiment", "train"]
        for frame in frames
        if re.fullmatch(frame + r"\.", row["sentence"], re.IGNORECASE)
    ]
    assert len(grades) >= 5
    assert set(grades) == {"4"}


def test_a_pair_is_a_paraphrase_exactly_where_agent_action_and_patient_agree(corpus):
    for row in corpus["paraphrase", "train"]:
        same = read_back(row["sentence1"]) == read_back(row["sentence2"])
        assert row["is_duplicate"] == str(int(same))


def test_a_fifth_of_the_pairs_differ_only_in_who_did_it_to_whom(corpus):
    events = [(read_back(row["sentence1"]), read_back(row["sentence2"])) for row in corpus["paraphrase", "dev"]]
    swapped = sum(first == second[::-1] for first, second in events)
    assert swapped / len(events) == pytest.approx(0.2, abs=0.04)


def test_the_same_words_can_be_a_paraphrase_or_not(corpus):
    labels = {}
    for row in corpus["paraphrase", "train"]:
        bag = tuple(sorted(" ".join(sorted(words(text))) for text in sentences(row)))
        labels.setdefault(bag, set()).add(row["is_duplicate"])
    assert sum(found == {"0", "1"} for found in labels.values()) >= 100


def test_likeness_counts_shared_parts_and_half_a_point_for_a_person_in_the_other_role():
    event = sample.Event(("cook", "chef"), ("thanked",), ("nurse",), ("at the station",), ("at noon", "at midday"))
    assert sample.likeness(event, event) == 5
    assert sample.likeness(event, event._replace(time=("yesterday",))) == 4
    assert sample.likeness(event, event.swapped()) == 4
    assert sample.likeness(event, event._replace(agent=("nurse",), patient=("guard",))) == 3.5
    assert (
        sample.likeness(event, sample.Event(("guard",), ("warned",), ("driver",), ("on the ship",), ("in winter",)))
        == 0
    )


def test_similarity_uses_the_whole_scale(corpus):
    scores = Counter(round(float(row["similarity"])) for row in corpus["similarity", "train"])
    assert all(scores[score] > 0.1 * scores.total() for score in range(6))


@pytest.mark.parametrize("rows", TASKS.values())
def test_an_unknown_split_is_refused(rows):
    with pytest.raises(ValueError, match=r"^split: found 'valid', expected one of train, dev, test$"):
        next(rows("valid"))
