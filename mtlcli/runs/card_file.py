"""README.md of a run: whether a person has changed what mtlcli wrote there."""

import hashlib
from pathlib import Path

CARD = "README.md"
OPENING = "---\n"
MARK = "# written by mtlcli; mtl card writes it again as long as it is unchanged, sha256: "
"""Begins the second line, a comment of the metadata."""


def marked(text: str) -> str:
    """Return a model card, which begins with its metadata, with a line by which a change can be recognized."""
    rest = text.removeprefix(OPENING)
    return f"{OPENING}{MARK}{_digest(rest)}\n{rest}"


def is_unchanged(run: Path) -> bool:
    """Return whether README.md of a run is as mtlcli wrote it."""
    try:
        text = (run / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    opening, _, below = text.partition("\n")
    mark, _, rest = below.partition("\n")
    return f"{opening}\n" == OPENING and mark == f"{MARK}{_digest(rest)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
