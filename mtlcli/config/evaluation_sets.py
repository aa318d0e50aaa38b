"""Configure evaluation rows: filters by column, and several sets of dev or test rows of one task.

A set has the name of a split: `dev.matched` is the set `matched` of `dev`.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mtlcli.config.values import column_name, share_of

RESERVED_NAMES = ("train", "dev", "test", "mean", "file", "where", "part")
"""Names that a set cannot have: those of splits, of the mean over sets, and of a set's own keys."""


def kind_of(split: str) -> str:
    """Return the kind of a split, `dev` for `dev.matched`."""
    return split.partition(".")[0]


def in_words(split: str) -> str:
    """Return the name of a split as it is printed, `dev matched` for `dev.matched`."""
    return split.replace(".", " ", 1)


def _values_by_column(value: Any) -> Any:
    """Return a filter with a list of texts for each column; a text stands for a list of one."""
    if not isinstance(value, dict):
        return value
    lists = {key: item if isinstance(item, list) else [item] for key, item in value.items()}
    return {str(column_name(key)): [_cell(item) for item in items] for key, items in lists.items()}


def _cell(value: Any) -> Any:
    # Python's True, as JSON spells it in a cell.
    return str(value).lower() if isinstance(value, bool) else column_name(value)


Where = Annotated[
    dict[str, Annotated[list[str], Field(min_length=1)]], BeforeValidator(_values_by_column), Field(min_length=1)
]
"""A filter of rows: by column, the texts of which a row must have one."""


def _shares(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= value[0] < value[1] <= 1:
        raise ValueError("expected two rising shares between 0 and 1, such as [0, 0.5]")
    return value


Part = Annotated[tuple[float, float], AfterValidator(_shares)]
"""Two shares of the rows, from the first to the second, in an order that follows from their texts."""


class EvaluationSet(BaseModel):
    """Configure one of several evaluation sets of a task; a bare string stands for its file."""

    model_config = ConfigDict(extra="forbid")
    file: str | None = Field(
        None, description="file of the set; the default is the file that the task has where no sets are named"
    )
    where: Where | None = Field(
        None, description="rows to keep, as in tasks.NAME.where, whose values for the same columns it replaces"
    )

    part: Part | None = Field(
        None,
        description="part of the rows, from one share to another: [0, 0.5] and [0.5, 1] are two halves. Rows with equal texts, or of "
        "one group, are in the same half, whatever the order of the file",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_string(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @field_validator("file")
    @classmethod
    def _no_share(cls, file: str | None) -> str | None:
        if file is not None and share_of(file) is not None:
            raise ValueError("expected a file; a share of the training rows cannot be one of several sets")
        return file


def _sets_by_name(value: Any) -> Any:
    """Return sets without those that are null: `--set tasks.NAME.dev.SET=null` removes a set of the recipe.

    Raises:
        ValueError: the value is a single set without a name.
    """
    if not isinstance(value, dict):
        return value
    # These are the keys of one set, so the level of the names is missing.
    if set(value) <= set(EvaluationSet.model_fields):
        raise ValueError("expected sets by name, such as {de: {file: dev.tsv, where: {language: de}}}")
    return {name: item for name, item in value.items() if item is not None}


EvaluationSets = Annotated[dict[str, EvaluationSet], BeforeValidator(_sets_by_name), Field(min_length=1)]
"""Evaluation sets by name."""
