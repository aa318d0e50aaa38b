"""The columns of a task's texts and labels: from the configuration, from the task, or by common names in the header."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtlcli.config.schema import TaskConfig
from mtlcli.data.encodings import encoding_of
from mtlcli.data.readers import FileSource
from mtlcli.data.records import listed
from mtlcli.data.sources import Source
from mtlcli.errors import MtlError, one_of
from mtlcli.tasks.base import Task

# Common names of columns, in order of preference: the first that a header has is used, whatever its case.
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "sentiment",
    "score",
    "similarity",
    "is_duplicate",
    "target",
    "relation",
    "gold_label",
    "y",
)
WORD_NAMES = (("words",), ("tokens",), ("form",))
TAG_NAMES = ("tags", "ner_tags", "pos_tags", "entities", "spans")
ANSWER_NAMES = ("answers", "answer")
TEXT_NAMES = (("text",), ("sentence",), ("review",), ("document",), ("question",), ("title",))
PAIR_NAMES = (
    ("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2"), ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"), ("text_a", "text_b"), ("a", "b"),
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Names of the columns with a row's texts and its label or labels; `labels` is empty where they are not needed."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The column or columns of the label, for messages."""
        return one_of(self.labels)


def find_columns(source: Source, config: TaskConfig, task: Task, *, labeled: bool = True) -> Columns:
    """Return the columns of texts and label: from the configuration, from the task, or by common names in the header."""
    where = f"tasks.{task.name}"
    if "label" not in task.target.columns:
        labeled = False
        if config.label:
            raise MtlError(f"{where}.label: this kind of task reads no labels; remove label, or choose another kind")
    texts = tuple(config.text or task.texts)
    encoding = encoding_of(config)
    counts: tuple[int, ...] = task.text_columns or (1 + task.pair,)
    if not texts:
        usual = PAIR_NAMES if task.pair else TEXT_NAMES if task.target.unit == "row" else (*WORD_NAMES, *TEXT_NAMES)
        texts = next((columns for names in task.usual_texts or usual if (columns := _named(source, names))), ())
    if not texts and isinstance(source, FileSource) and source.format.name == "conll":
        # Without a header: the word comes first in CoNLL-2000, CoNLL-2003 and most corpora like them.
        texts = ("0",)
    if not texts:
        wanted = (
            "two columns are the texts: --set tasks.{0}.text=[first,second]"
            if min(counts) == 2
            else "column is the text: --set tasks.{0}.text=NAME"
        )
        missing_label = labeled and not labels_of(source, config, task)
        and_label = f" and which is the label: --set {where}.label=NAME" if missing_label else ""
        raise MtlError(
            f"{source.name}: which {wanted.format(task.name)}{and_label}; the file has {listed(source.columns)}"
        )
    if len(texts) not in counts:
        expected = f"{' or '.join(map(str, counts))} columns"
        if counts == (1,):
            expected = "one column (for two texts a row there are pair tasks)"
        elif counts == (2,):
            expected = "two columns, the texts of a pair"
        raise MtlError(f"{where}.text: found {one_of(texts)}: expected {expected}")
    text_columns = tuple(
        source.column(text, nested=encoding.nested) for text in (*texts, *encoding.further_columns(config))
    )
    if not labeled:
        return Columns(text_columns)
    wanted_labels = labels_of(source, config, task)
    if not wanted_labels:
        raise MtlError(
            f"{source.name}: which column is the label: --set {where}.label=NAME; the file has {listed(source.columns)}"
        )
    if len(wanted_labels) > 1 and "columns" not in task.target.forms:
        raise MtlError(f"{where}.label: found {one_of(wanted_labels)}: expected one column for this kind of task")
    labels = tuple(source.column(label, nested="nested" in task.target.forms) for label in wanted_labels)
    if both := [label for label in labels if label in text_columns]:
        raise MtlError(
            f'{where}: the column "{both[0]}" is both a text and the label; set {where}.text or {where}.label'
        )
    return Columns(text_columns, labels)


def labels_of(source: Source, config: TaskConfig, task: Task) -> tuple[str, ...]:
    """Return the label columns of the configuration, of the task, or by a common name in the header; empty for none of them."""
    usual: Mapping[str, tuple[str, ...]] = {"word": TAG_NAMES, "query": ANSWER_NAMES}
    names = (*task.usual_labels, *usual.get(task.target.unit, ()), *LABEL_NAMES)
    if isinstance(source, FileSource) and source.format.name == "conll":
        names = ("-1",)  # the last column
    common = (columns for name in names if (columns := (name,) if name == "-1" else _named(source, (name,))))
    stated = config.label or task.label
    return (stated,) if isinstance(stated, str) and stated else tuple(stated) or next(common, ())


def _named(source: Source, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of these names, ignoring case; empty if one is missing."""
    # Reversed, so that the first of several names that differ only in case is used.
    columns = {column.lower(): column for column in reversed(source.columns)}
    return tuple(columns[name] for name in names) if all(name in columns for name in names) else ()
