"""Semantic textual similarity: Agirre et al., SemEval 2012 to 2017 (STS-B in GLUE)."""

from collections.abc import Iterable, Mapping
from typing import Any

from mtlcli.tasks import sample
from mtlcli.tasks.base import HubSource, Task
from mtlcli.tasks.targets import Score


class STS(Task):
    """Predict how similar two sentences are, from 0 to 5. Each is encoded alone, unless set to `cross`.

    Reads the CS224N files `sts-*.csv`; on the hub, STS-B of GLUE.
    """

    texts = ("sentence1", "sentence2")
    label = "similarity"
    pair = True
    target = Score(0.0, 5.0)
    heads = {"bi": "cosine", "cross": "linear"}
    metrics = ("pearson", "spearman")
    files = {"train": "sts-train.csv", "dev": "sts-dev.csv"}
    hub = HubSource(
        "nyu-mll/glue",
        "stsb",
        {"train": "train", "dev": "validation"},
        {"sentence1": "sentence1", "sentence2": "sentence2", "similarity": "label"},
    )

    def sample(self, split: str) -> Iterable[Mapping[str, Any]]:
        """Made-up pairs that share none to all of their parts."""
        return sample.similarity(split)
