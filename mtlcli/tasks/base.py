"""The contract of a task: its columns, target, heads, metrics and files."""

from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mtlcli.tasks.targets import Target


@dataclass(frozen=True)
class HubSource:
    """Location of a task's rows for the `datasets` library: splits by our names, columns by the task's names."""

    repository: str
    configuration: str | None
    splits: Mapping[str, str]
    columns: Mapping[str, str]


class Task(ABC):
    """A kind of task. A plugin derives from this class, sets the attributes and takes its options by keyword.

    Attributes:
        texts: columns of the text or texts, by header name; empty if the user or the header decides.
        label: column of the label; empty likewise.
        pair: whether a row holds two texts.
        usual_texts: names of text columns that files of this kind often have, tried in order where `texts` is empty; empty for
            those of all kinds.
        usual_labels: names of label columns that files of this kind often have, tried before those of all kinds.
        text_columns: how many columns the texts can be in; empty for one, or two of a pair.
        no_label: default marks of rows without a label, which are left out.
        target: what is predicted, such as `Classes` or `Score`.
        heads: default head for each encoding; the first encoding is the default one.
        metrics: names of its metrics; the first is the primary one, which selects checkpoints.
        files: file name of each split inside the folder of `--data`.
        hub: location of the rows on the Hub, if there is one.
        on_bad_row: default treatment of a row that cannot be read, `error` or `skip`.
    """

    texts: ClassVar[tuple[str, ...]] = ()
    label: ClassVar[str] = ""
    pair: ClassVar[bool] = False
    usual_texts: ClassVar[tuple[tuple[str, ...], ...]] = ()
    usual_labels: ClassVar[tuple[str, ...]] = ()
    text_columns: ClassVar[tuple[int, ...]] = ()
    no_label: ClassVar[tuple[str, ...]] = ()
    target: Target
    heads: ClassVar[Mapping[str, str]]
    metrics: ClassVar[tuple[str, ...]]
    files: ClassVar[Mapping[str, str]] = {}
    hub: ClassVar[HubSource | None] = None
    on_bad_row: ClassVar[str] = "error"

    def __init__(self, name: str) -> None:
        self.name = name

    def metrics_of(self, target: Target) -> tuple[str, ...]:
        """Return the names of the metrics for the target as training rows have fitted it, the primary one first."""
        return self.metrics

    def sample(self, split: str) -> Iterable[Mapping[str, Any]] | None:
        """Return made-up rows of train, dev or test for `--sample`, by column name; None if the task has none."""
        return None


def sample_rows(rows: Iterable[Mapping[str, Any]] | None) -> Iterator[dict[str, str]]:
    """Yield the rows of `Task.sample` with every value as text, like the rows of a file."""
    for row in rows or ():
        yield {key: str(value) for key, value in row.items()}
