"""Question types: what a question asks for, after Li and Roth, COLING 2002 (TREC), on made-up questions."""

from collections.abc import Iterator
from itertools import product

from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Classes

OPENINGS = {
    "person": ("who {did}", "which person {did}", "what was the name of the man who {did}"),
    "place": (
        "where was it that somebody {did}",
        "in which town was it that they {did}",
        "what was the place where she {did}",
    ),
    "time": (
        "when was it that somebody {did}",
        "in which year was it that they {did}",
        "on what day was it that she {did}",
    ),
    "number": ("how many people {did}", "how often was it that they {did}", "what was the number of those who {did}"),
}
DEEDS = ("built", "sold", "found", "painted", "lost", "repaired")
THINGS = ("the old bridge", "the first radio", "the red boat", "the city hall", "a gold coin", "the white horse")


class QuestionType(Task):
    """Which of four things a question asks for: a person, a place, a time or a number.

    Reads `question-type-train.tsv` and `question-type-dev.tsv` with the columns `question` and `type`. "What was the name"
    and "what was the number" open alike, so the first word alone does not tell.
    """

    texts = ("question",)
    label = "type"
    target = Classes({kind: kind for kind in OPENINGS})
    heads = {"single": "linear"}
    metrics = ("accuracy", "macro-f1")
    files = {split: f"question-type-{split}.tsv" for split in ("train", "dev", "test")}

    def sample(self, split: str) -> Iterator[dict[str, str]]:
        """Made-up questions for --sample; what is asked in one split is asked in no other."""
        for number, (did, what) in enumerate(product(DEEDS, THINGS)):
            if split == {2: "dev", 6: "test"}.get(number % 7, "train"):
                for kind, openings in OPENINGS.items():
                    for opening in openings:
                        yield {"question": f"{opening.format(did=did)} {what}?", "type": kind}
