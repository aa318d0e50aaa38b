"""A made-up corpus for demos and tests: three tasks in simple English, the same rows on every machine.

Sentences come from templates and word lists written for this file, and every label follows from what the sentence says:

- sentiment grades one sentence. Its adjective says how good (mild or strong), a modifier raises, weakens, cancels or flips it,
  and of two opinions joined by "but" or "although" only the main one counts. A "not" in a side remark flips nothing.
- paraphrase asks whether two sentences tell the same event. The same event may change nearly every word (synonyms, passive
  voice, time first), and a different one may keep them all ("the cook thanked the waiter", "the waiter thanked the cook").
- similarity counts what two events share of agent, action, patient, place and time, a synonym being the same thing.

So counting words is not enough: scope decides a sentiment, word order decides who did what, and synonyms must be learned from
the pairs. No row of one split appears in another, because a checksum of its text decides which split a row belongs to.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple, TypeVar

ROWS = {
    "sentiment": {"train": 4000, "dev": 500, "test": 500},
    "paraphrase": {"train": 9000, "dev": 600, "test": 600},
    "similarity": {"train": 6000, "dev": 500, "test": 500},
}

Row = dict[str, str]
Concept = tuple[str, ...]  # one meaning, in all its wordings
T = TypeVar("T")

# Sentiment

TOPICS = [
    "soup",
    "bread",
    "film",
    "book",
    "concert",
    "hotel",
    "room",
    "service",
    "staff",
    "coffee",
    "music",
    "garden",
    "museum",
    "lesson",
    "trip",
    "train",
    "bus",
    "meal",
    "wine",
    "show",
    "phone",
    "story",
    "bed",
    "view",
]
ADJECTIVES = {
    2: ["superb", "wonderful", "excellent", "brilliant", "fantastic", "perfect", "delightful", "amazing"],
    1: ["good", "nice", "pleasant", "decent", "solid", "likeable", "charming", "neat"],
    0: ["ordinary", "average", "standard", "typical", "usual"],
    -1: ["bad", "poor", "dull", "weak", "boring", "unpleasant", "disappointing", "shabby"],
    -2: ["terrible", "awful", "horrible", "dreadful", "disgusting", "atrocious", "miserable", "appalling"],
}
REMARKS = (
    "my brother did not come along",
    "we came by train",
    "it did not rain that day",
    "we were there for two days",
    "nobody else was there",
    "my cousin never called",
    "it was a friday",
    "we did not have to wait",
    "a friend took us there",
    "we had never been there before",
)
MODIFIERS = {
    "plain": ("the {topic} was {word}", "i thought the {topic} was {word}", "we found the {topic} {word}"),
    "very": ("the {topic} was very {word}", "the {topic} was really {word}", "we found the {topic} extremely {word}"),
    "fairly": ("the {topic} was fairly {word}", "we found the {topic} somewhat {word}"),
    "barely": ("the {topic} was barely {word}", "we found the {topic} hardly {word}"),
    "not": (
        "the {topic} was not {word}",
        "the {topic} was never {word}",
        "the {topic} was not very {word}",
        "i do not think the {topic} was {word}",
        "nobody found the {topic} {word}",
    ),
}


def grade(strength: int, modifier: str) -> int:
    """strength -2..2 of the adjective alone, modifier a key of MODIFIERS -> grade 0 (very negative) to 4 (very positive)."""
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


def sentiment(split: str) -> Iterator[Row]:
    """Rows {"sentence", "sentiment"}: "0" very negative, "1" negative, "2" neutral, "3" positive, "4" very positive."""
    return _rows("sentiment", split, _opinion)


def _opinion(random: Random) -> Row:
    wanted, other = _pick(random, range(5)), _pick(random, range(5))
    main, side = _clause(random, wanted), _clause(random, other)
    remark = _pick(random, REMARKS)
    sentence = _pick(
        random,
        (
            main,
            f"{main} and {remark}",
            f"{remark} and {main}",
            f"{side} but {main}",
            f"although {side} , {main}",
            f"{main} although {side}",
        ),
    )
    return {"sentence": sentence, "sentiment": str(wanted)}


def _clause(random: Random, wanted: int) -> str:
    strength, modifier = _pick(random, WAYS[wanted])
    return _pick(random, MODIFIERS[modifier]).format(
        topic=_pick(random, TOPICS), word=_pick(random, ADJECTIVES[strength])
    )


# Pairs


def _concepts(text: str) -> list[Concept]:
    return [tuple(wording.strip() for wording in concept.split("/")) for concept in text.split(",")]


PEOPLE = _concepts(
    "cook/chef, doctor/physician, teacher/instructor, lawyer/attorney, sailor/seaman, boy/lad, farmer/grower, singer/vocalist, "
    "thief/robber, policeman/officer, writer/author, actor/performer, driver/chauffeur, waiter/server, guard/sentry, nurse"
)
ACTIONS = _concepts(
    "phoned/called, helped/assisted, praised/complimented, followed/trailed, hired/employed, blamed/accused, warned/cautioned, "
    "tricked/fooled, greeted/welcomed, struck/hit, rescued/saved, thanked"
)
PLACES = _concepts(
    "in the kitchen, at the market/at the bazaar, in the street/in the road, at the shop/at the store, in the garden/in the yard, "
    "at the harbour/at the port, in the forest/in the woods, in the cellar/in the basement, at the hotel/at the inn, "
    "on the boat/on the ship, near the church/near the chapel, at the station"
)
TIMES = _concepts(
    "at noon/at midday, in autumn/in fall, at dawn/at sunrise, at dusk/at sunset, last night, on sunday, yesterday, this morning, "
    "in winter, two years ago"
)


class Event(NamedTuple):
    """Who did what to whom, where and when."""

    agent: Concept
    action: Concept
    patient: Concept
    place: Concept
    time: Concept


CHOICES = Event(PEOPLE, ACTIONS, PEOPLE, PLACES, TIMES)  # type: ignore[arg-type]


def likeness(first: Event, second: Event) -> float:
    """One point for each of the five parts that agree, half a point for a person in the other role: 0.0 to 5.0."""
    swapped = (first.agent == second.patient) + (first.patient == second.agent)
    return sum(a == b for a, b in zip(first, second, strict=True)) + swapped / 2


def paraphrase(split: str) -> Iterator[Row]:
    """Rows {"sentence1", "sentence2", "is_duplicate"}: "1" where both tell the same event, else "0"."""
    return _rows("paraphrase", split, _paraphrase)


def similarity(split: str) -> Iterator[Row]:
    """Rows {"sentence1", "sentence2", "similarity"}: "0.0" (nothing in common) to "5.0" (the same event)."""
    return _rows("similarity", split, _similarity)


def _paraphrase(random: Random) -> Row:
    first = _event(random)
    kind = _pick(random, ("same", "same", "roles", "part"))
    second = first
    if kind == "roles":
        second = first._replace(agent=first.patient, patient=first.agent)
    elif kind == "part":
        second = _changed(random, first, [_pick(random, Event._fields)])
    return {
        "sentence1": _tell(random, first),
        "sentence2": _tell(random, second),
        "is_duplicate": str(int(first == second)),
    }


def _similarity(random: Random) -> Row:
    first = _event(random)
    if random.random() < 0.2:
        second = first._replace(agent=first.patient, patient=first.agent)
    else:
        second = first
    names = list(Event._fields)
    dropped = [names.pop(int(random.random() * len(names))) for _ in range(_pick(random, range(6)))]
    second = _changed(random, second, dropped)
    return {
        "sentence1": _tell(random, first),
        "sentence2": _tell(random, second),
        "similarity": f"{likeness(first, second):.1f}",
    }


def _event(random: Random) -> Event:
    event = Event(*(_pick(random, concepts) for concepts in CHOICES))
    return event if event.agent != event.patient else _event(random)


def _changed(random: Random, event: Event, names: Sequence[str]) -> Event:
    """The event with other concepts in the parts named; never a person of the event in a new role."""
    for name in names:
        concepts = [concept for concept in getattr(CHOICES, name) if concept not in event]
        event = event._replace(**{name: _pick(random, concepts)})
    return event


def _tell(random: Random, event: Event) -> str:
    """One of the ways to say it: any synonym, active or passive, time first or last."""
    agent, action, patient, place, time = (_pick(random, concept) for concept in event)
    told = _pick(random, (f"the {agent} {action} the {patient}", f"the {patient} was {action} by the {agent}"))
    return _pick(random, (f"{told} {place} {time}", f"{time} the {told[4:]} {place}"))


# Both


def _rows(task: str, split: str, make: Callable[[Random], Row]) -> Iterator[Row]:
    if split not in ROWS[task]:
        raise ValueError(f"split: found {split!r}, expected one of {', '.join(ROWS[task])}")
    random = Random(zlib.crc32(f"{task} {split}".encode()))
    seen: set[frozenset[str]] = set()
    while len(seen) < ROWS[task][split]:
        row = make(random)
        texts = frozenset(text for name, text in row.items() if name.startswith("sentence"))
        if texts not in seen and _split_of(texts) == split:
            seen.add(texts)
            yield row


def _split_of(texts: frozenset[str]) -> str:
    return {0: "dev", 1: "test"}.get(zlib.crc32("\n".join(sorted(texts)).encode()) % 10, "train")


def _pick(random: Random, choices: Sequence[T]) -> T:
    # Random.random is the one method whose sequence Python promises to keep from version to version
    return choices[int(random.random() * len(choices))]
