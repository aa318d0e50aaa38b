"""Stanford Sentiment Treebank, five grades: Socher et al., EMNLP 2013."""

from collections.abc import Iterable, Mapping
from typing import Any

from mtlcli.tasks import sample
from mtlcli.tasks.base import HubSource, Task
from mtlcli.tasks.targets import Classes


class SST(Task):
    """Sentiment of one sentence in five grades, from very negative to very positive.

    Reads the CS224N files `ids-sst-*.csv`; on the hub, SetFit/sst5.
    """

    texts = ("sentence",)
    label = "sentiment"
    target = Classes({"0": "very negative", "1": "negative", "2": "neutral", "3": "positive", "4": "very positive"})
    heads = {"single": "linear"}
    metrics = ("accuracy", "macro-f1")
    files = {"train": "ids-sst-train.csv", "dev": "ids-sst-dev.csv"}
    hub = HubSource(
        "SetFit/sst5",
        None,
        {"train": "train", "dev": "validation", "test": "test"},
        {"sentence": "text", "sentiment": "label"},
    )

    def sample(self, split: str) -> Iterable[Mapping[str, Any]]:
        """Made-up sentences with negation and intensifiers."""
        return sample.sentiment(split)
