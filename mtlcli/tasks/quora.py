"""Quora question pairs: Iyer, Dandekar, Csernai, 2017 (QQP in GLUE)."""

from collections.abc import Iterable, Mapping
from typing import Any

from mtlcli.tasks import sample
from mtlcli.tasks.base import HubSource, Task
from mtlcli.tasks.targets import Classes


class Quora(Task):
    """Detect whether two questions ask the same. Both are encoded as one sequence, unless set to `bi`.

    Reads the CS224N files `quora-*.csv`. A few of their rows have no label: they are skipped and counted. On the Hub: QQP of GLUE.
    """

    texts = ("sentence1", "sentence2")
    label = "is_duplicate"
    pair = True
    target = Classes({"0": "different", "1": "duplicate"}, positive="duplicate")
    heads = {"cross": "linear", "bi": "pair-concat"}
    metrics = ("accuracy", "macro-f1")
    files = {"train": "quora-train.csv", "dev": "quora-dev.csv"}
    hub = HubSource(
        "nyu-mll/glue",
        "qqp",
        {"train": "train", "dev": "validation"},
        {"sentence1": "question1", "sentence2": "question2", "is_duplicate": "label"},
    )
    on_bad_row = "skip"

    def sample(self, split: str) -> Iterable[Mapping[str, Any]]:
        """Return made-up pairs with synonym, voice and role swaps."""
        return sample.paraphrase(split)
