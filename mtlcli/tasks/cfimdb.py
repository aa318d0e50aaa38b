"""CFIMDB: counterfactually close movie reviews, CMU minBERT assignment (from IMDB, Maas et al., ACL 2011)."""

from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Classes


class CFIMDB(Task):
    """Classify long movie reviews as negative or positive. Reads the CS224N files `ids-cfimdb-*.csv`."""

    texts = ("sentence",)
    label = "sentiment"
    target = Classes({"0": "negative", "1": "positive"})
    heads = {"single": "linear"}
    metrics = ("accuracy", "macro-f1")
    files = {"train": "ids-cfimdb-train.csv", "dev": "ids-cfimdb-dev.csv"}
