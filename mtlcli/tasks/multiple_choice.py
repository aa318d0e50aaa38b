"""Multiple choice: which of the choices of a row is right?"""

from typing import Annotated, Literal

from pydantic import Field

from mtlcli.tasks.base import Task
from mtlcli.tasks.choices import Choices, Form


class MultipleChoice(Task):
    """Choose one of two or more choices, whose number may vary from row to row.

    A row has a context, a question, or both, and its choices in a list or in several columns (`choices`). The label is the number of
    the right choice, its letter, or its text.
    """

    target: Choices
    heads = {"choices": "choice-linear"}
    metrics = ("accuracy",)
    text_columns = (1, 2)
    usual_texts = (
        ("context", "question"), ("premise", "question"), ("passage", "question"), ("article", "question"), ("context",),
        ("premise",), ("question",), ("startphrase",), ("ctx",), ("text",), ("sentence",),
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        label_form: Annotated[
            Literal["auto"] | Form,
            Field(description="how a label names the right choice; auto is what the training rows show"),
        ] = "auto",
        label_base: Annotated[
            int | None,
            Field(
                ge=0,
                le=1,
                description="number of the first choice; the default is 1 if the training labels show it, else 0",
            ),
        ] = None,
    ) -> None:
        super().__init__(name)
        self.target = Choices(None if label_form == "auto" else label_form, label_base)
