"""Relation classification: how are two marked spans of a text related?"""

from typing import Annotated

from pydantic import Field

from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Classes


class Relation(Task):
    """Classify the relation between two marked spans of a text, its head and its tail.

    A row is a text with the tags `<e1>...</e1>` and `<e2>...</e2>`, or three columns: a text or a list of words, the head and the tail,
    each as [first, end] in characters of the text or in words.
    """

    target: Classes
    heads = {"marked": "relation-linear"}
    metrics = ("relation-f1", "accuracy", "macro-f1")
    text_columns = (1, 3)
    usual_texts = (
        ("tokens", "head", "tail"),
        ("words", "head", "tail"),
        ("text", "head", "tail"),
        ("text",),
        ("sentence",),
    )

    def __init__(
        self,
        name: str,
        *,
        negative: Annotated[
            str | None,
            Field(description="the class that stands for no relation, which relation-f1 does not count"),
        ] = None,
    ) -> None:
        super().__init__(name)
        self.target = Classes(negative=negative)
