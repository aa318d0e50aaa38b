"""Made-up corpus for demos and tests: three tasks in simple English, the same rows on every machine.

Sentences come from templates and word lists written for this file, and every label follows from what the sentences say:

- sentiment grades one sentence. Its adjective says how good (mild or strong), a modifier raises, weakens, cancels or flips that,
  and of two opinions joined by "but" or "although" only the main one counts. A "not" in a side remark flips nothing.
- paraphrase asks whether two sentences tell the same event. The same event may change nearly every word (synonyms, passive
  voice), and a different event may keep them all ("The cook thanked the nurse.", "The nurse thanked the cook.").
- similarity counts what two longer sentences share of agent, action, patient, place and time, a synonym being the same thing.

So counting words is not enough: scope decides a sentiment, word order decides who did what, and synonyms must be learned from
the pairs. No row of one split appears in another, because a checksum of its text decides which split it belongs to.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple, TypeVar

ROWS = {
    "sentiment": {"train": 3000, "dev": 500, "test": 500},
    "paraphrase": {"train": 12000, "dev": 600, "test": 600},
    "similarity": {"train": 10000, "dev": 500, "test": 500},
}

Row = dict[str, str]
Concept = tuple[str, ...]  # one meaning, in all its wordings
T = TypeVar("T")


def sentiment(split: str) -> Iterator[Row]:
    """Yield rows {"sentence", "sentiment"}: "0" very negative, "1" negative, "2" neutral, "3" positive, "4" very positive.

    Raises: ValueError unless split is train, dev or test.
    """
    return _rows("sentiment", split, _opinion)


def paraphrase(split: str) -> Iterator[Row]:
    """Yield rows {"sentence1", "sentence2", "is_duplicate"}: "1" if both describe the same event, else "0".

    Raises: ValueError unless split is train, dev or test.
    """
    return _rows("paraphrase", split, _paraphrase)


def similarity(split: str) -> Iterator[Row]:
    """Yield rows {"sentence1", "sentence2", "similarity"}: "0.0" (nothing in common) to "5.0" (the same event).

    Raises: ValueError unless split is train, dev or test.
    """
    return _rows("similarity", split, _similarity)


def _rows(task: str, split: str, make: Callable[[Random], Row]) -> Iterator[Row]:
    if split not in ROWS[task]:
        raise ValueError(f"split: found {split!r}, expected one of {', '.join(ROWS[task])}")
    # The built-in `hash` of a text differs from process to process.
    random = Random(zlib.crc32(f"{task} {split}".encode()))
    seen: set[frozenset[str]] = set()
    while len(seen) < ROWS[task][split]:
        row = make(random)
        sentences = [text for column, text in row.items() if column.startswith("sentence")]
        key = frozenset(sentences)  # a pair is the same pair in either order
        if len(key) == len(sentences) and key not in seen and _split_of(key) == split:
            seen.add(key)
            yield row


def _split_of(key: frozenset[str]) -> str:
    return {0: "dev", 1: "test"}.get(zlib.crc32("\n".join(sorted(key)).encode()) % 10, "train")


def _pick(random: Random, choices: Sequence[T]) -> T:
    # Random.random is the one method whose sequence Python promises to keep from version to version
    return choices[int(random.random() * len(choices))]


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


# Opinions


def _words(text: str) -> list[str]:
    return text.split()


TOPICS = _words(
    "soup bread film book concert hotel room service staff coffee music garden museum lesson trip train bus meal wine show "
    "phone story bed view song play novel dinner breakfast lunch beach castle zoo park lake game party class talk radio camera"
)
ADJECTIVES = {
    2: _words("superb wonderful excellent brilliant fantastic perfect delightful amazing"),
    1: _words("good nice pleasant decent solid likeable charming neat"),
    0: _words("ordinary average standard typical usual"),
    -1: _words("bad poor dull weak boring unpleasant disappointing shabby"),
    -2: _words("terrible awful horrible dreadful disgusting atrocious miserable appalling"),
}
MODIFIERS = {
    "plain": ("the {topic} was {word}", "I thought the {topic} was {word}", "we found the {topic} {word}"),
    "very": ("the {topic} was very {word}", "the {topic} was really {word}", "we found the {topic} extremely {word}"),
    "fairly": ("the {topic} was fairly {word}", "we found the {topic} somewhat {word}"),
    "barely": ("the {topic} was barely {word}", "we found the {topic} hardly {word}"),
    "not": (
        "the {topic} was not {word}",
        "the {topic} was never {word}",
        "the {topic} was not very {word}",
        "I do not think the {topic} was {word}",
        "nobody found the {topic} {word}",
    ),
}
REMARKS = (
    "my brother did not come along",
    "we came by train",
    "it did not rain that day",
    "we were there for two days",
    "nobody else was there",
    "my cousin never called",
    "it was a Friday",
    "we did not have to wait",
    "a friend took us there",
    "we had never been there before",
)


def grade(strength: int, modifier: str) -> int:
    """Return the grade, 0 (very negative) to 4 (very positive), of an adjective of strength -2..2 with a key of MODIFIERS."""
    sign = (strength > 0) - (strength < 0)
    return 2 + {"plain": strength, "very": 2 * sign, "fairly": sign, "barely": 0, "not": -sign}[modifier]


# Every way to say each grade. A neutral adjective takes no modifier: "not ordinary" could mean anything.
WAYS = {
    wanted: [
        (strength, modifier)
        for strength in ADJECTIVES
        for modifier in (MODIFIERS if strength else ["plain"])
        if grade(strength, modifier) == wanted
    ]
    for wanted in range(5)
}


def _opinion(random: Random) -> Row:
    wanted = _pick(random, range(5))
    main, side, remark = _clause(random, wanted), _clause(random, _pick(random, range(5))), _pick(random, REMARKS)
    frames = (
        main,
        f"{main} and {remark}",
        f"{remark} and {main}",
        f"{side} but {main}",
        f"although {side}, {main}",
        f"{main} although {side}",
    )
    return {"sentence": _sentence(_pick(random, frames)), "sentiment": str(wanted)}


def _clause(random: Random, wanted: int) -> str:
    strength, modifier = _pick(random, WAYS[wanted])
    return _pick(random, MODIFIERS[modifier]).format(
        topic=_pick(random, TOPICS), word=_pick(random, ADJECTIVES[strength])
    )


# Events


def _concepts(text: str) -> list[Concept]:
    return [tuple(concept.split("/")) for concept in text.split(", ")]


PEOPLE = _concepts(
    "cook/chef, doctor/physician, teacher/instructor, lawyer/attorney, sailor/seaman, thief/robber, writer/author, driver, waiter, "
    "nurse, singer, guard"
)
ACTIONS = _concepts(
    "phoned/called, helped/assisted, praised/complimented, followed/trailed, hired/employed, blamed/accused, warned, thanked"
)
PLACES = _concepts(
    "in the kitchen, at the market/at the bazaar, in the street/in the road, at the shop/at the store, in the garden/in the yard, "
    "at the harbour/at the port, in the forest/in the woods, in the cellar/in the basement, at the hotel/at the inn, "
    "on the boat/on the ship, near the church/near the chapel, at the station"
)
TIMES = _concepts(
    "at noon/at midday, in autumn/in fall, at dawn/at sunrise, at dusk/at sunset, last night, on Sunday, yesterday, this morning, "
    "in winter, two years ago"
)
CHOICES = {"agent": PEOPLE, "action": ACTIONS, "patient": PEOPLE, "place": PLACES, "time": TIMES}


class Event(NamedTuple):
    """Agent, action, patient, place and time of a sentence."""

    agent: Concept
    action: Concept
    patient: Concept
    place: Concept
    time: Concept

    def swapped(self) -> "Event":
        """Return the event with agent and patient exchanged."""
        return self._replace(agent=self.patient, patient=self.agent)


def likeness(first: Event, second: Event) -> float:
    """Return one point for each of the five parts that agree, and half a point for each person in the other role: 0.0 to 5.0."""
    moved = (first.agent == second.patient) + (first.patient == second.agent)
    return sum(a == b for a, b in zip(first, second, strict=True)) + moved / 2


def _paraphrase(random: Random) -> Row:
    first = second = _event(random)
    # More than half are drawn as the same event, because pairs of equal sentences are dropped: 49 % of the training
    # rows remain paraphrases.
    kind = _pick(random, ("same",) * 7 + ("roles",) * 2 + ("all",) * 2 + ("one",))
    if kind == "roles":
        second = first.swapped()
    elif kind == "one":
        second = _changed(random, first, [_pick(random, ("agent", "action", "patient"))])
    elif kind == "all":
        second = _changed(random, first, ("agent", "action", "patient"))
    return {
        "sentence1": _sentence(_who_did_what(random, first)),
        "sentence2": _sentence(_who_did_what(random, second)),
        "is_duplicate": str(int(kind == "same")),
    }


def _similarity(random: Random) -> Row:
    first = _event(random)
    second = first.swapped() if random.random() < 0.2 else first
    parts = list(CHOICES)
    for _ in range(_pick(random, range(6))):
        second = _changed(random, second, [parts.pop(_pick(random, range(len(parts))))])
    return {
        "sentence1": _sentence(_full_story(random, first)),
        "sentence2": _sentence(_full_story(random, second)),
        "similarity": f"{likeness(first, second):.1f}",
    }


def _event(random: Random) -> Event:
    event = Event(**{part: _pick(random, concepts) for part, concepts in CHOICES.items()})
    return _changed(random, event, ["patient"]) if event.agent == event.patient else event


def _changed(random: Random, event: Event, parts: Sequence[str]) -> Event:
    """Return the event with each of these parts replaced by one that it does not mention."""
    for part in parts:
        event = event._replace(**{part: _pick(random, [concept for concept in CHOICES[part] if concept not in event])})
    return event


def _who_did_what(random: Random, event: Event) -> str:
    agent, action, patient = (_pick(random, wordings) for wordings in event[:3])
    return _pick(random, (f"the {agent} {action} the {patient}", f"the {patient} was {action} by the {agent}"))


def _full_story(random: Random, event: Event) -> str:
    told, place, time = _who_did_what(random, event), _pick(random, event.place), _pick(random, event.time)
    return _pick(random, (f"{told} {place} {time}", f"{time} {told} {place}"))
