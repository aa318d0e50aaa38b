"""Files of SQuAD, version 1.1 or 2.0, as one JSON object for each question."""

import json
import re
from collections.abc import Iterator
from typing import Any

from mtlcli.errors import MtlError, quotable

# Only the start is checked: to find `data` elsewhere, every JSON file would have to be read whole.
HEAD = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*(?:"version"\s*:\s*"[^"]*"\s*,\s*)?"data"\s*:\s*\[')
EXPECTED = "expected data[].paragraphs[].qas[] (SQuAD), an array of objects, or one object a line"


def begins_squad(head: bytes) -> bool:
    """Return whether the first bytes of a file open a file of SQuAD."""
    return HEAD.match(head) is not None


def questions(content: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield number, counted from 1, and JSON of each question: id, title, question, context and answers.

    A question that is marked as impossible has an empty list of answers, and one of an unlabeled file has none; plausible answers are
    left out.

    Raises:
        MtlError: the file is not JSON, has another structure, or a question is impossible and has answers.
    """
    try:
        # Written as JSON again below, so that a question is parsed and checked like a row of JSONL.
        articles = json.loads(content)["data"]
        number = 0
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    number += 1
                    yield number, json.dumps(_row(question, paragraph, article, f"{name}:{number}")).encode()
    except json.JSONDecodeError as error:
        raise MtlError(f"{name}:{error.lineno}: not JSON: {error.msg}; {EXPECTED}") from None
    except UnicodeDecodeError as error:
        raise MtlError(f"{name}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except KeyError as error:
        raise MtlError(f"{name}: found no {error}; {EXPECTED}") from None
    except (TypeError, AttributeError):
        raise MtlError(f"{name}: its objects and lists are arranged otherwise; {EXPECTED}") from None


def _row(question: dict[str, Any], paragraph: dict[str, Any], article: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the row of a question."""
    row = {
        "id": question.get("id"), "title": article.get("title", ""), "question": question["question"],
        "context": paragraph["context"],
    }  # fmt: skip
    answers = question.get("answers")
    if question.get("is_impossible") and answers:
        raise MtlError(
            f'{where}: the question "{quotable(str(question.get("id")))}" is_impossible, but has {len(answers)} answer(s)'
        )
    return row if answers is None else {**row, "answers": answers}
