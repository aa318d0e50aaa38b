"""How files spell labels: numbers from spreadsheets, letters that look alike, marks for a missing label."""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

NO_LABEL = frozenset(("-", "-1", "?", "n/a", "na", "nan", "null", "none", "<na>", "no label", "no_label", "unlabeled"))
"""Marks, in lower case, that published files write where a row has no label: SNLI and MultiNLI `-`, the Hub `-1`."""

# Not \d, which matches the digits of all scripts.
WITH_POINT = re.compile(r"[-+]?[0-9]+\.[0-9]*")
FLOAT = re.compile(r"([-+]?[0-9]+)\.0?")


def whole_number(text: str) -> str | None:
    """Return a number such as `3.0` without its `.0`; None for every other text, `3` and `3.00` included."""
    match = FLOAT.fullmatch(text)
    return match[1] if match else None


def are_floats_of_integers(labels: Iterable[str]) -> bool:
    """Return whether every label ends in `.0`, as a spreadsheet writes a column of whole numbers with gaps."""
    distinct = list(labels)
    return bool(distinct) and all(label.endswith(".0") and whole_number(label) is not None for label in distinct)


def float_spellings(labels: Iterable[str]) -> dict[str, str]:
    """Return what else a file may say for whole numbers: `1.0` or `1.` for `1`, or `1` for `1.0`.

    Empty if the labels have other decimal points: `401.9` and `401.90`, or the versions `1` and `1.0`, are codes.
    """
    texts = list(labels)
    points = [text for text in texts if WITH_POINT.fullmatch(text)]
    if not points:
        return {text + end: text for text in texts if re.fullmatch(r"[-+]?[0-9]+", text) for end in (".0", ".")}
    numbers = [text for text in texts if re.fullmatch(r"[-+]?[0-9.]+", text)]
    return {text[:-2]: text for text in points} if are_floats_of_integers(numbers) else {}


def plain_form(label: str) -> str:
    """Return a label in lower case and composed Unicode (NFC), without invisible characters and repeated spaces.

    Labels with the same plain form look alike: `True` and `TRUE`, or two spellings of `café`.
    """
    # Category Cf: zero-width spaces and joiners, soft hyphens, marks of direction.
    visible = "".join(character for character in label if unicodedata.category(character) != "Cf")
    # Composed again at the end, because case folding can give decomposed letters.
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold()).split())


def look_alikes(labels: Iterable[str]) -> list[list[str]]:
    """Return groups of two or more different labels that have the same plain form, in the order of the labels."""
    groups = defaultdict(list)
    for label in dict.fromkeys(labels):
        groups[plain_form(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def quoted(label: str, *, codes: bool = False) -> str:
    """Return a label between quotes; with `codes`, letters beyond ASCII by their code points."""
    return ascii(label) if codes else repr(label)


def recipe_text(label: str, *, codes: bool = False) -> str:
    """Return a label as a recipe writes it, between double quotes; with `codes`, letters beyond ASCII by their code points."""
    return json.dumps(label, ensure_ascii=codes)
