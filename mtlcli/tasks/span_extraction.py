"""Span extraction: where in the context does the answer to a question stand?"""

from typing import Annotated

from pydantic import Field

from mtlcli.tasks.answers import Answers
from mtlcli.tasks.base import Task


class SpanExtraction(Task):
    """Find the answer to a question as a span of a context, or that there is none (Rajpurkar et al. 2016 and 2018).

    Files are those of SQuAD, or rows with a question, a context and `answers`: a list of objects with `text` and `answer_start`,
    empty for a question without an answer. A context of any length is read, in parts that overlap.
    """

    pair = True
    target: Answers
    heads = {"spans": "span-linear"}
    metrics = ("answer-f1", "answer-exact-match")
    usual_texts = (("question", "context"), ("question", "passage"), ("query", "context"), ("question", "text"))

    def __init__(
        self,
        name: str,
        *,
        fix_offsets: Annotated[
            bool,
            Field(
                description="whether an answer that stands elsewhere than its offset says is moved to its nearest occurrence"
            ),
        ] = False,
    ) -> None:
        super().__init__(name)
        self.target = Answers(fix_offsets=fix_offsets)
