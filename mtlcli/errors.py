"""The exception that users see, and the phrases that end its lines."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

# Control characters, zero-width and bidirectional marks, line separators and the byte order mark: they could
# change or hide text on a terminal.
UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
LONGEST_QUOTE = 80
"""Characters of a file that a message quotes."""


class MtlError(Exception):
    """Report an error that a user can fix: bad input, a wrong option, a missing file.

    Every line states where, what was found, what was expected and what to do. The command line prints each after
    ``error:`` and exits with code 2, without a traceback. Any other exception is a bug and keeps its traceback.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the candidate nearest to a name; empty if none is near."""
    near = get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Return the end of an error line about an unknown name: `; did you mean "x"?`, or `; there are: a, b, c` if none is near."""
    names = list(candidates)
    return did_you_mean(name, names) or (f"; there are: {one_of(names)}" if names else "; there are none")


def one_of(names: Iterable[str]) -> str:
    """Return a readable list of names, for the end of an error line."""
    return ", ".join(names) or "none"


def quotable(text: str) -> str:
    """Return text of a file for a message: control characters escaped, and cut where it is long."""
    # Cut before escaping, so that no escape sequence is split.
    escaped = UNPRINTABLE.sub(lambda mark: mark[0].encode("unicode_escape").decode(), text[:LONGEST_QUOTE])
    return escaped if len(text) <= LONGEST_QUOTE else f"{escaped}…"
