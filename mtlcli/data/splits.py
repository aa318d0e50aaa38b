"""From a task's configuration to its labelled rows: which file, which columns, which labels, and what is wrong with them.

The texts stay where they are: a split remembers which rows it keeps and reads them again when they are tokenized.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtlcli.config.schema import TASK_FILES, TaskConfig
from mtlcli.data.readers import BadRows, FileSource, format_of
from mtlcli.data.sources import Source, hub_source, rows_of, sample_source
from mtlcli.errors import MtlError, one_of
from mtlcli.facts import seed_for
from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import UNSEEN, Classes, Score, Target

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
    "y",
)
TEXT_NAMES = (("text",), ("sentence",), ("review",), ("document",), ("question",), ("title",))
PAIR_NAMES = (
    ("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2"), ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"), ("text_a", "text_b"), ("a", "b"),
)  # fmt: skip


class NoRows(MtlError):
    """A source in which no row can be used."""


@dataclass(frozen=True)
class Columns:
    """Where a row's texts and label stand in a source; label None where labels are neither there nor needed."""

    texts: tuple[str, ...]
    label: str | None


@dataclass(frozen=True)
class Split:
    """The rows of one split that are used.

    ordinals (n,) number them among the readable rows of the source, lines (n,) in the file; targets (n,) are class
    indices or scores; hashes (n,) uint64 of the texts. `content` identifies all texts and labels together.
    """

    task: str
    name: str
    source: Source
    columns: Columns
    ordinals: np.ndarray
    lines: np.ndarray
    targets: np.ndarray
    hashes: np.ndarray
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ordinals)

    @property
    def content(self) -> str:
        """Changes whenever a text, a label or the order of the rows does."""
        return hashlib.sha256(self.hashes.tobytes() + self.targets.tobytes()).hexdigest()

    def texts(self) -> Iterator[tuple[str, ...]]:
        """Yield the texts of the rows, read again from the source.

        Raises:
            MtlError: a text is not the one that was read first. Tokens are cached under the content of the first reading, so
                texts of another file must not get there.
        """
        rows = zip(self.ordinals.tolist(), self.hashes.tolist(), strict=True)
        due = next(rows, None)
        for ordinal, row in enumerate(rows_of(self.source, BadRows("skip"))):
            if due is None:
                return
            if ordinal == due[0]:
                texts = tuple(row.values.get(column, "") for column in self.columns.texts)
                if int(np.frombuffer(_text_hash(texts), dtype=np.uint64)[0]) != due[1]:
                    break
                yield texts
                due = next(rows, None)
        if due is not None:
            raise MtlError(f"{self.source.name}: changed while it was being read; start again")

    def place(self, row: int) -> str:
        """File and line of a row."""
        return f"{self.source.name}:{self.lines[row]}"


@dataclass(frozen=True)
class LoadedTask:
    """A task with its target fitted on the training rows, and its splits by name."""

    task: Task
    config: TaskConfig
    target: Target
    splits: dict[str, Split]


def load_task(name: str, config: TaskConfig, task: Task, *, data: str | None, sample: bool, seed: int) -> LoadedTask:
    """Reads and checks a task's training and dev rows. Raises MtlError with every bad row, each with file and line."""
    target = declared_target(config, task, f"tasks.{name}")
    train = find_source(config, task, "train", data=data, sample=sample)
    if train is None:
        raise MtlError(f"tasks.{name}: no training rows: give a file, such as --task {name}=train.tsv,dev.tsv")
    policy = config.on_bad_row or task.on_bad_row
    split, fitted = read_split(task, config, "train", train, target, policy, fit=True)
    if config.max_rows is not None and config.max_rows < len(split):
        split = _subset(split, config.max_rows, seed)
    splits = {"train": split}
    dev = find_source(config, task, "dev", data=data, sample=sample)
    if dev is not None:
        try:
            splits["dev"], _ = read_split(task, config, "dev", dev, fitted, policy)
        except NoRows as error:
            splits["train"] = replace(split, warnings=(*split.warnings, *error.lines))
    return LoadedTask(task, config, fitted, splits)


def declared_target(config: TaskConfig, task: Task, where: str) -> Target:
    """The task's target with the labels or the range that the configuration declares."""
    target = task.target
    if config.labels is not None:
        if not isinstance(target, Classes):
            raise MtlError(f"{where}.labels: this task predicts a score; it has a range, not labels")
        labels = [label.strip() for label in config.labels]
        if len(set(labels)) < max(2, len(labels)) or "" in labels:
            raise MtlError(f"{where}.labels: found {labels}: expected two or more different names")
        return Classes({label: label for label in labels})
    if config.range is not None:
        if not isinstance(target, Score):
            raise MtlError(f"{where}.range: this task predicts classes; it has labels, not a range")
        return Score(*config.range)
    return target


def find_source(config: TaskConfig, task: Task, split: str, *, data: str | None, sample: bool) -> Source | None:
    """Where a split's rows are: the task's own file, the folder of --data, the made-up corpus, or the hub."""
    named = getattr(config, split) if split in TASK_FILES else None
    if named is not None:
        return FileSource(Path(named), format=format_of(named, header=config.header))
    if config.train is not None or (split != "train" and any(getattr(config, other) for other in TASK_FILES)):
        return None
    if data is not None:
        folder = Path(data)
        if not folder.is_dir():
            raise MtlError(f"data: {folder.absolute()} is not a folder")
        file = task.files.get(split)
        if file is None and split == "train":
            raise MtlError(
                f"tasks.{task.name}: the task expects no file of its own in {folder}: give one, such as "
                f"--task {task.name}=train.tsv,dev.tsv"
            )
        if file is None or (split != "train" and not (folder / file).exists()):
            return None
        return FileSource(folder / file, format=format_of(file, header=config.header))
    if sample:
        return sample_source(task, split)
    if task.hub is not None:
        return hub_source(task, task.hub, split)
    if split == "train":
        raise MtlError(
            f"tasks.{task.name}: no data: give its files (--task {task.name}=train.tsv,dev.tsv) or the folder where they "
            "are (--data FOLDER)"
        )
    return None


def find_columns(source: Source, config: TaskConfig, task: Task, *, labelled: bool = True) -> Columns:
    """The columns of texts and label: as configured, as the task says, or by the usual names in the header."""
    where = f"tasks.{task.name}"
    texts = tuple(config.text or task.texts)
    if not texts:
        usual = PAIR_NAMES if task.pair else TEXT_NAMES
        texts = next((there for names in usual if (there := _named(source, names))), ())
    if not texts:
        wanted = (
            "two columns are the texts: --set tasks.{0}.text=[first,second]"
            if task.pair
            else "column is the text: --set tasks.{0}.text=NAME"
        )
        raise MtlError(f"{source.name}: which {wanted.format(task.name)}; the file has {one_of(source.columns)}")
    if len(texts) != 1 + task.pair:
        raise MtlError(
            f"{where}.text: found {one_of(texts)}: expected "
            + (
                "two columns, the texts of a pair"
                if task.pair
                else "one column (for two texts a row there are pair tasks)"
            )
        )
    found = tuple(source.column(text) for text in texts)
    label = config.label or task.label
    if not labelled:
        return Columns(found, None)
    if not label:
        label = next((there[0] for name in LABEL_NAMES if (there := _named(source, (name,)))), "")
    if not label:
        raise MtlError(
            f"{source.name}: which column is the label: --set {where}.label=NAME; the file has {one_of(source.columns)}"
        )
    label = source.column(label)
    if label in found:
        raise MtlError(f'{where}: the column "{label}" is both a text and the label; set {where}.text or {where}.label')
    return Columns(found, label)


def _named(source: Source, names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of these names, whatever their case; empty where one is missing."""
    columns = {column.lower(): column for column in reversed(source.columns)}
    return tuple(columns[name] for name in names) if all(name in columns for name in names) else ()


def read_split(
    task: Task, config: TaskConfig, split: str, source: Source, target: Target, policy: str, *, fit: bool = False
) -> tuple[Split, Target]:
    """Reads every row once: checks it, parses its label, and forgets its texts.

    A label that was declared, by the task or by `labels`, is held to it in every split. Where the classes are those of
    the training rows, found here with `fit`, a label that is not one of them is UNSEEN, with a warning. Raises NoRows where
    no row is left.
    """
    where = f"tasks.{task.name} ({split})"
    if _is_empty(source):
        raise NoRows(f"{source.name}: is empty: no rows for {where}")
    columns = find_columns(source, config, task)
    if columns.label is None:
        raise MtlError(f"{source.name}: no label column")
    inferred = target_is_open(declared_target(config, task, f"tasks.{task.name}"))
    bad = BadRows("skip" if policy == "skip" else "error")
    ordinals, lines, labels, hashes = [], [], [], []
    wrong: dict[str, str] = {}  # every label text, and what is wrong with it
    for ordinal, row in enumerate(rows_of(source, bad)):
        label = sys.intern(row.values[columns.label].strip())  # the same few, a million times
        texts = [row.values[column] for column in columns.texts]
        if label not in wrong:
            wrong[label] = _wrong_label(columns.label, label, None if inferred else target)
        if problem := _wrong_texts(columns, texts) or wrong[label]:
            bad.report(source.name, row.line, problem)
            continue
        ordinals.append(ordinal)
        lines.append(row.line)
        labels.append(label)
        hashes.append(_text_hash(texts))
    bad.raise_if_any()
    skipped = f"{task.name} {split}: {bad.summary()}" if bad.count else ""
    if not labels:
        raise NoRows(f"{source.name}: no usable row for {where}{'; ' if skipped else ''}{bad.summary()}")
    if fit:
        target = target.fit(labels)
        _must_differ(source, columns.label, target, labels)
    parsed = {label: _parse(target, label) for label in dict.fromkeys(labels)}
    targets = target.as_array([parsed[label] for label in labels])
    warnings = [skipped] if skipped else []
    warnings += _label_warnings(task.name, split, columns.label, target, labels, targets)
    found = Split(
        task.name, split, source, columns, np.asarray(ordinals), np.asarray(lines), targets,
        np.frombuffer(b"".join(hashes), dtype=np.uint64), tuple(warnings),
    )  # fmt: skip
    return found, target


def _text_hash(texts: Sequence[str]) -> bytes:
    """Return 8 bytes that identify the texts of a row."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "replace"), digest_size=8).digest()


def _is_empty(source: Source) -> bool:
    """Whether a file holds nothing at all, neither a header nor a first row."""
    if not isinstance(source, FileSource):
        return False
    return (source.path.is_file() and source.path.stat().st_size == 0) or not source.columns


def target_is_open(target: Target) -> bool:
    """Whether the labels can be judged only after all training rows were seen."""
    return isinstance(target, Classes) and target.values is None


def _wrong_texts(columns: Columns, texts: list[str]) -> str:
    empty = [column for column, text in zip(columns.texts, texts, strict=True) if not text.strip()]
    return f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty" if empty else ""


def _wrong_label(column: str, label: str, target: Target | None) -> str:
    if not label:
        return f"{column} is empty"
    try:
        if target is not None:
            target.parse(label)
    except ValueError as error:
        return f"{column}: found {label!r}, {error}"
    return ""


def _must_differ(source: Source, column: str, target: Target, labels: list[str]) -> None:
    """Raises MtlError where there is nothing to learn, because all training rows say the same."""
    if len(target.labels) < 2 if isinstance(target, Classes) else len({target.parse(one) for one in set(labels)}) < 2:
        raise MtlError(f'{source.name}: every row has the {column} "{labels[0]}"; expected at least two different ones')


def _parse(target: Target, label: str) -> int | float:
    try:
        return target.parse(label)
    except ValueError:
        return UNSEEN


def _label_warnings(
    task: str, split: str, column: str, target: Target, labels: list[str], targets: np.ndarray
) -> list[str]:
    if isinstance(target, Classes):
        if split == "train" and len(target.labels) > max(20, len(labels) / 4):
            return [
                f'{task}: {len(labels)} training rows have {len(target.labels)} classes; is "{column}" the label, and is it no '
                "score (kind regression)?"
            ]
        unseen = Counter(label for label, value in zip(labels, targets.tolist(), strict=True) if value == UNSEEN)
        if unseen:
            listed = ", ".join(f"{label!r} ({count})" for label, count in unseen.most_common(5))
            return [
                f"{task} {split}: {sum(unseen.values())} rows have a label unseen in training, counted as wrong: {listed}"
            ]
    elif isinstance(target, Score) and target.low is not None and target.high is not None:
        outside = int(((targets < target.low) | (targets > target.high)).sum())
        if outside:
            return [
                f"{task} {split}: {outside} scores are outside [{target.low:g}, {target.high:g}]; predictions never are"
            ]
    return []


def _subset(split: Split, rows: int, seed: int) -> Split:
    random = np.random.Generator(np.random.PCG64(seed_for(seed, "max_rows", split.task)))
    chosen = np.sort(random.choice(len(split), size=rows, replace=False))
    return replace(
        split, ordinals=split.ordinals[chosen], lines=split.lines[chosen], targets=split.targets[chosen],
        hashes=split.hashes[chosen],
    )  # fmt: skip


def overlap(train: Split, other: Split) -> int:
    """Rows of another split whose texts also occur in training."""
    return int(np.isin(other.hashes, train.hashes).sum())
