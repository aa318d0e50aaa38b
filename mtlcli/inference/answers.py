"""Predicted answers as SQuAD's evaluation script reads them: one JSON object from the ids of questions to texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtlcli.data.readers import FileSource, TextRow
from mtlcli.data.records import json_text
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.inference.predict import Prediction


@dataclass(frozen=True)
class AnswerOutput:
    """How the answers of one task are written."""

    source: FileSource
    task: str

    def entry(self, row: TextRow, predictions: Mapping[str, Prediction]) -> str:
        """Return `"id": "answer"` of one row.

        Raises:
            MtlError: the row has no id.
        """
        identifier = row.values.get("id", "")
        if not identifier:
            raise MtlError(f'{self.source.name}:{row.line}: --format squad needs the key "id" in every row')
        return f"{json_text(identifier)}: {json_text(predictions[self.task].as_json()['answer'])}"


def answer_output(source: FileSource, tasks: Sequence[TaskFacts]) -> AnswerOutput:
    """Return how to write the answers of a task.

    Raises:
        MtlError: there are several tasks, or the task finds no answers.
    """
    if len(tasks) != 1 or tasks[0].target.kind != "answers":
        names = ", ".join(task.name for task in tasks)
        raise MtlError(f"--format squad: writes the answers of one task, and this is {names}; name it with --task")
    return AnswerOutput(source, tasks[0].name)
