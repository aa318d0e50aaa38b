"""Predictions of words as sentences of CoNLL columns or CoNLL-U."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtlcli.data.conll import CONLLU
from mtlcli.data.readers import FileSource, TextRow
from mtlcli.errors import MtlError, one_of
from mtlcli.facts import TaskFacts
from mtlcli.inference.predict import Prediction


@dataclass(frozen=True)
class SentenceOutput:
    """How predicted words are written.

    Attributes:
        source: the input; its own columns are kept where it has the format that is written.
        tasks: names of the tasks, in the order of their columns.
        places: for CoNLL-U, the column of each task; its value in the input is replaced.
    """

    source: FileSource
    tasks: tuple[str, ...]
    places: Mapping[str, int] | None

    def sentence(self, row: TextRow, predictions: Mapping[str, Prediction]) -> str:
        """Return the lines of one sentence, without the blank one behind it."""
        tags = {name: predictions[name].as_json()["tags"] for name in self.tasks}
        words: list[str] = predictions[self.tasks[0]].as_json()["words"]
        if self.places is not None:
            return self._conllu(row, words, tags)
        columns = [words]
        if self.source.format.name == "conll":
            columns = [row.original[column] for column in self.source.columns]
        return "\n".join(map("\t".join, zip(*columns, *tags.values(), strict=True)))

    def _conllu(self, row: TextRow, words: Sequence[str], tags: Mapping[str, Sequence[str]]) -> str:
        """Return the lines of the input with new values in the tasks' columns; comments, ranges and empty nodes stay."""
        if self.source.format.name == "conllu":
            lines = row.lines.split("\n")
        else:
            lines = ["\t".join([str(i + 1), word, *["_"] * (len(CONLLU) - 2)]) for i, word in enumerate(words)]
        number, written = 0, []
        for line in lines:
            cells = line.rstrip("\r").split("\t")
            # Only words have whole numbers as ids: ranges are written 1-2, empty nodes 8.1.
            if not line.startswith("#") and cells[0].isdecimal():
                for name, place in (self.places or {}).items():
                    cells[place] = tags[name][number]
                number += 1
            written.append("\t".join(cells))
        return "\n".join(written)


def sentence_output(
    source: FileSource, tasks: Sequence[TaskFacts], labels: Mapping[str, str | list[str]], kind: str
) -> SentenceOutput:
    """Return how to write the predictions of some tasks as `conll` or `conllu`.

    Args:
        labels: the column of each task's label in training.

    Raises:
        MtlError: a task predicts something other than words, or, for CoNLL-U, has no column there.
    """
    if wrong := [task.name for task in tasks if task.target.unit != "word"]:
        raise MtlError(
            f"--format {kind}: {one_of(wrong)} predicts no words; name the tasks with --task, or use --format jsonl"
        )
    names = tuple(task.name for task in tasks)
    if kind == "conll":
        return SentenceOutput(source, names, None)
    places = {name: CONLLU.index(str(labels[name])) for name in names if labels[name] in CONLLU}
    if missing := [name for name in names if name not in places]:
        raise MtlError(
            f"--format conllu: {one_of(missing)} was not trained on a column of CoNLL-U; use --format conll or jsonl"
        )
    return SentenceOutput(source, names, places)
