"""Rows of TACRED: relations whose marked spans are given by the first and the last word (Zhang et al. 2017, D17-1004)."""

from typing import Any

from mtlcli.data.records import BadRecord

SPANS = {"head": ("subj_start", "subj_end"), "tail": ("obj_start", "obj_end")}
KEYS = frozenset(("token", *SPANS["head"], *SPANS["tail"]))


def with_spans(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of TACRED with the columns `tokens`, `head` and `tail` of the kind `relation`; any other row as it is.

    TACRED counts words from 0 and includes the last one of a span; `head` is the subject, [first, end) as elsewhere.

    Raises:
        BadRecord: a position is no whole number.
    """
    if not row.keys() >= KEYS:
        return row
    return {**row, "tokens": row["token"]} | {
        column: [_position(row, first), _position(row, last) + 1] for column, (first, last) in SPANS.items()
    }


def _position(row: dict[str, Any], key: str) -> int:
    try:
        return int(str(row[key]))  # numbers of a row are as they are spelled
    except ValueError:
        raise BadRecord(f'"{key}" is no position of a word; expected a whole number, counted from 0') from None
