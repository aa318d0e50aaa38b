"""Kinds of tasks for a user's own files: columns and labels come from the configuration or from the file."""

from typing import Annotated, Literal

from pydantic import Field

from mtlcli.tasks.base import Task
from mtlcli.tasks.label_sets import LabelSets
from mtlcli.tasks.schemes import Scheme
from mtlcli.tasks.tag_labels import Align
from mtlcli.tasks.tags import Tags
from mtlcli.tasks.targets import Classes, Score, Target


class Classification(Task):
    """Classify one text."""

    target = Classes()
    heads = {"single": "linear"}
    metrics = ("accuracy", "macro-f1")


class Regression(Task):
    """Predict a score of one text."""

    target = Score()
    heads = {"single": "linear"}
    metrics = ("pearson", "spearman", "mean-squared-error")


class PairClassification(Task):
    """Classify a pair of texts. Both texts are encoded as one sequence, unless set to `bi`."""

    pair = True
    target = Classes()
    heads = {"cross": "linear", "bi": "pair-concat"}
    metrics = ("accuracy", "macro-f1")


class PairRegression(Task):
    """Predict a score of a pair of texts. Each text is encoded alone, unless set to `cross`."""

    pair = True
    target = Score()
    heads = {"bi": "cosine", "cross": "linear"}
    metrics = ("pearson", "spearman", "mean-squared-error")


class Tagging(Task):
    """Predict one tag for each word of a text: part-of-speech tags, or spans such as names in a scheme such as BIO.

    Words come from a column of a CoNLL file, a list of JSON, or raw text that is cut into words; the label is a tag for each word,
    or a list of spans with `start`, `end` (exclusive) and `type` in characters of the text.
    """

    target: Tags
    heads = {"words": "tag-linear"}
    metrics = ("span-f1", "span-precision", "span-recall", "tag-accuracy")

    def __init__(
        self,
        name: str,
        *,
        scheme: Annotated[
            Literal["auto"] | Scheme,
            Field(
                description="how tags of the files mark spans; auto is what the training rows show, plain is no spans"
            ),
        ] = "auto",
        train_scheme: Annotated[
            Literal["bio", "iobes"], Field(description="how the tags that are learned mark spans")
        ] = "bio",
        align: Annotated[
            Align, Field(description="what to do with a span of characters that begins or ends inside a word")
        ] = "error",
        strict: Annotated[bool, Field(description="whether an I tag that continues no span is an error")] = False,
    ) -> None:
        super().__init__(name)
        self.target = Tags(None, None if scheme == "auto" else scheme, train_scheme, align, strict)

    def metrics_of(self, target: Target) -> tuple[str, ...]:
        """Return the metrics of spans where tags mark some, else the accuracy of the tags."""
        return self.metrics if isinstance(target, Tags) and target.marks_spans else ("tag-accuracy",)


SET_METRICS = ("micro-f1", "macro-f1", "subset-accuracy", "mean-average-precision", "micro-f1-at-half")
Separator = Annotated[str, Field(min_length=1, description="what stands between the labels in a cell")]


class MultiLabel(Task):
    """Predict any number of labels of one text, none included.

    Labels come from a list of JSON, a cell with several of them, or several columns of 0 and 1, each named after its label. An empty
    list or cell is a row without labels; null, or an empty cell of a column of 0 and 1, says nothing of a label.
    """

    target: LabelSets
    heads = {"single": "linear"}
    metrics = SET_METRICS

    def __init__(self, name: str, *, separator: Separator = "|") -> None:
        super().__init__(name)
        self.target = LabelSets(separator=separator)


class PairMultiLabel(Task):
    """Predict any number of labels of a pair of texts. Both texts are encoded as one sequence, unless set to `bi`."""

    pair = True
    target: LabelSets
    heads = {"cross": "linear", "bi": "pair-concat"}
    metrics = SET_METRICS

    def __init__(self, name: str, *, separator: Separator = "|") -> None:
        super().__init__(name)
        self.target = LabelSets(separator=separator)
