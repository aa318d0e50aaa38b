"""From what a file says of a row's labels, a list, a cell, or 0 and 1 by label, to the labels that hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtlcli.errors import quotable
from mtlcli.tasks.target_base import BadLabel

# Libraries such as pandas write a column of 0 and 1 with gaps as 0.0 and 1.0.
TRUE, FALSE = frozenset(("1", "1.0", "1.", "true")), frozenset(("0", "0.0", "0.", "false"))
"""What a column of one label says where it holds and where it does not, in lower case."""


@dataclass(frozen=True)
class Marks:
    """What a row says of labels.

    Attributes:
        holds: whether a label holds, by its name in the file; None: the row does not say.
        is_complete: whether labels that are not named do not hold, rather than being unknown.
        repeated: how many names stand there for a second time.
        numbers: names that are numbers of labels, as of `[0, 3]`.
    """

    holds: Mapping[str, bool | None]
    is_complete: bool = True
    repeated: int = 0
    numbers: frozenset[str] = frozenset()


def marks_in(label: Any, separator: str) -> Marks | None:
    """Return what a label says; None for one that is unknown.

    Args:
        label: a list of names, names in one text, or 0, 1 or nothing by name.
        separator: what stands between names in a text.

    Raises:
        BadLabel: the label is of another form.
    """
    if label is None:
        return None
    if isinstance(label, Mapping):
        return Marks({str(name).strip(): _truth(str(name), value) for name, value in label.items()}, is_complete=False)
    if isinstance(label, str):
        names: list[str] = [name for part in label.split(separator) if (name := part.strip())]
        numbers: list[str] = []
    elif isinstance(label, list | tuple):
        names = [_name(value, place) for place, value in enumerate(label)]
        # A number of JSON arrives as a text of a type of its own.
        numbers = [name for name, value in zip(names, label, strict=True) if type(value) is not str]
    else:
        raise BadLabel("label", f": found {label!r}; expected a list of labels")
    holds: dict[str, bool | None] = dict.fromkeys(names, True)
    return Marks(holds, repeated=len(names) - len(holds), numbers=frozenset(numbers))


def _name(value: Any, place: int) -> str:
    if value is None or isinstance(value, bool | list | tuple | dict | float):
        raise BadLabel("label", f": item {place} (counted from 0) is {_kind(value)}; expected the name of a label")
    name = str(value).strip()
    if not name:
        raise BadLabel("label", f": item {place} (counted from 0) is empty; expected the name of a label")
    return name


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "a list"
    return (
        "an object" if isinstance(value, dict) else {None: "null", True: "true", False: "false"}.get(value, str(value))
    )


def _truth(column: str, value: Any) -> bool | None:
    """Return whether a label holds, by its cell."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if text.lower() in TRUE | FALSE:
        return text.lower() in TRUE
    raise BadLabel(column, f': found "{quotable(text)}", expected 0, 1 or empty')
