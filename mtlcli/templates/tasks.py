"""Questions and statements: an example to change. Say here where the data is from: authors, venue, year."""

from collections.abc import Iterator
from itertools import product

from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Classes

PEOPLE = ("baker", "driver", "farmer", "guest", "nurse", "painter", "pilot", "singer", "teacher", "waiter")
ACTIONS = ("cook", "dance", "rest", "sing", "wait", "walk", "work")
PLACES = ("at home", "at the station", "by the river", "in the garden", "in the hall")


class Example(Task):
    """Classify a sentence as a question or a statement.

    Reads `example-train.tsv` and `example-dev.tsv` with the columns sentence and kind.
    """

    texts = ("sentence",)
    label = "kind"
    target = Classes({"0": "statement", "1": "question"})  # label in the file: name of the class
    heads = {"single": "linear"}
    metrics = ("accuracy", "macro-f1")
    files = {"train": "example-train.tsv", "dev": "example-dev.tsv", "test": "example-test.tsv"}

    def sample(self, split: str) -> Iterator[dict[str, str]]:
        """Return made-up rows for --sample; no sentence is in two splits."""
        for number, (who, does, where) in enumerate(product(PEOPLE, ACTIONS, PLACES)):
            if split == {3: "dev", 7: "test"}.get(number % 11, "train"):
                yield {"sentence": f"the {who} will {does} {where}", "kind": "0"}
                yield {"sentence": f"will the {who} {does} {where}", "kind": "1"}
