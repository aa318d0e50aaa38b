"""From a task's configuration to its labeled rows: file, columns, labels, and errors in them.

Texts are not kept: a split stores the numbers of its rows and reads their texts again for tokenization.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from mtlcli.config.evaluation_sets import in_words, kind_of
from mtlcli.config.schema import TaskConfig
from mtlcli.data import held_out
from mtlcli.data.columns import Columns, find_columns, labels_of
from mtlcli.data.encodings import BadText, RowEncoding, RowTexts, encoding_of
from mtlcli.data.readers import BadRows, FileSource, TextRow
from mtlcli.data.records import cell_text, counted
from mtlcli.data.row_filter import FilterCounts
from mtlcli.data.sources import MadeRows, Source, row_column, rows_of
from mtlcli.data.task_sources import find_source, is_empty
from mtlcli.errors import MtlError, one_of, quotable
from mtlcli.facts import seed_for
from mtlcli.statistics.groups import RowGroups
from mtlcli.tasks.base import Task
from mtlcli.tasks.numbers import number_in
from mtlcli.tasks.targets import Arrays, BadLabel, Raw, Target
from mtlcli.tasks.words import Text, content

V = TypeVar("V")


class NoRows(MtlError):
    """A source without a usable row."""


@dataclass(frozen=True)
class Split:
    """The usable rows of one split.

    Attributes:
        target: the task's target, fitted on the training rows.
        encoding: how the rows' texts are read and tokenized.
        ordinals: (n,), numbers of the rows among the readable rows of the source.
        lines: (n,), lines of the rows in the file.
        gold: labels of the rows.
        hashes: (n,) uint64, of the texts.
        groups: the groups of the rows; None where the task has no column of groups.
        warnings: sentences about the rows that a user should read.
        notes: sentences about how the rows were read.
        weights: (n,) float64, of training rows factors of their losses with a mean of 1 per loss unit, of other rows their weights in
            metrics as the file has them; None where all are 1.
    """

    task: str
    name: str
    source: Source
    columns: Columns
    target: Target
    encoding: RowEncoding
    ordinals: np.ndarray
    lines: np.ndarray
    gold: Arrays
    hashes: np.ndarray
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    groups: RowGroups | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ordinals)

    @property
    def texts_digest(self) -> str:
        """A digest of all texts in their order."""
        return hashlib.sha256(self.hashes.tobytes()).hexdigest()

    @property
    def content(self) -> str:
        """A digest of all texts and labels in their order."""
        return hashlib.sha256(self.hashes.tobytes() + self.gold.tobytes()).hexdigest()

    @property
    def labeled(self) -> int:
        """Number of rows with a label."""
        return int((self.target.units(self.gold) > 0).sum())

    def texts(self) -> Iterator[RowTexts]:
        """Yield the texts of the rows, read again from the source.

        Raises:
            MtlError: a text is not the one that was read first. Tokens are cached under the content of the first reading, so
                texts of another file must not get there.
        """
        rows = zip(self.ordinals.tolist(), self.hashes.tolist(), strict=True)
        due = next(rows, None)
        # Bad rows were reported in the first reading, and are left out of the numbering here, too.
        for ordinal, row in enumerate(rows_of(self.source, BadRows("skip"))):
            if due is None:
                return
            if ordinal == due[0]:
                try:
                    texts = self.encoding.texts(values_of(row, self.columns.texts, self.source, self.encoding.nested))
                except BadText:
                    break
                if int(np.frombuffer(_text_hash(texts), dtype=np.uint64)[0]) != due[1]:
                    break
                yield texts
                due = next(rows, None)
        if due is not None:
            raise MtlError(f"{self.source.name}: changed while it was being read; start again")

    def place(self, row: int) -> str:
        """Return file and line of a row."""
        return f"{self.source.name}:{self.lines[row]}"


@dataclass(frozen=True)
class LoadedTask:
    """A task, its target fitted on the training rows, and its splits by name: `train`, and `dev` or a split for each dev set."""

    task: Task
    config: TaskConfig
    target: Target
    splits: dict[str, Split]

    @property
    def dev(self) -> dict[str, Split]:
        """The dev splits by name, such as `dev`, or `dev.matched` and `dev.mismatched`."""
        return {name: split for name, split in self.splits.items() if kind_of(name) == "dev"}


def load_task(name: str, config: TaskConfig, task: Task, *, data: str | None, sample: bool, seed: int) -> LoadedTask:
    """Read and check a task's training and dev rows; an auxiliary task needs no dev rows, and none are read.

    Raises:
        MtlError: one line for each bad row, with file and line.
    """
    target = declared_target(config, task)
    train = find_source(config, task, "train", data=data, sample=sample)
    if train is None:
        raise MtlError(f"tasks.{name}: no training rows: give a file, such as --task {name}=train.tsv,dev.tsv")
    policy = config.on_bad_row or task.on_bad_row
    dev_rows = rows_held_out(config, task, train)
    split = read_split(task, config, "train", train, target, policy, fit=True, rows=_rest(dev_rows))
    if config.max_rows is not None and config.max_rows < len(split):
        split = _subset(split, config.max_rows, seed, stratify=config.stratify)
    if split.weights is not None:
        # After max_rows, so that the mean is 1 over the rows that are trained on.
        split = replace(split, weights=_normalized(split, split.weights))
    splits = {"train": split}
    for name in () if config.auxiliary else config.splits_of("dev"):
        dev = find_source(config, task, name, data=data, sample=sample)
        if dev is None:
            continue
        try:
            splits[name] = read_split(task, config, name, dev, split.target, policy, rows=dev_rows)
        except NoRows as error:
            if config.sets_of("dev"):  # a set that the configuration names must not be missing from the mean
                raise
            splits["train"] = replace(split, warnings=(*split.warnings, *error.lines))
    return LoadedTask(task, config, split.target, splits)


def declared_target(config: TaskConfig, task: Task) -> Target:
    """Return the task's target with the labels or the range that the configuration declares."""
    where = f"tasks.{task.name}"
    target = task.target.declare(config.labels, config.range, where)
    target = target.spelled(config.aliases, config.normalize_labels, where)
    return target if config.positive is None else target.with_positive(config.positive, where)


def rows_held_out(config: TaskConfig, task: Task, train: Source) -> np.ndarray | None:
    """Return which readable rows of the training source `dev: 10%` holds out (n,) bool; None where dev is not a share.

    The rows are ordered by a hash of their texts or groups, seeded with `dev_seed`, so that rows with equal texts, and those of one
    group, are on the same side, and neither the order of the file nor the seed of training matters.

    Raises:
        MtlError: the columns are not found, or all rows belong together.
    """
    share = config.dev_share
    if share is None or is_empty(train):
        return None
    found = find_columns(train, config, task)
    # Requested here too, because a row is readable only where all requested columns are.
    _weight_column(config, task, train, found)
    columns = found.texts
    seed = config.dev_seed.to_bytes(8, "little")
    encoding = encoding_of(config)
    group = _group_column(config, task, train)
    hashes, groups = [], []
    for row in rows_of(train, BadRows("skip")):
        hashes.append(_hash_of_row(row, columns, train, encoding, seed))
        groups.append("" if group is None else row.values.get(group, "").strip())
    if not hashes:
        return np.zeros(0, dtype=bool)
    # Little-endian on every machine, so that all hold out the same rows.
    ranks = np.frombuffer(b"".join(hashes), dtype="<u8")
    rows = held_out.by_text(ranks, share) if group is None else held_out.by_group(ranks, groups, share, seed)
    if rows.all() or not rows.any():
        reason = "all texts are equal" if group is None else f"all rows have the {group} or the text of another one"
        raise MtlError(f"{train.name}: {reason}, so dev: {config.dev} cannot hold out any; give a file")
    return rows


def _rest(dev_rows: np.ndarray | None) -> np.ndarray | None:
    return None if dev_rows is None else ~dev_rows


def selected_rows(config: TaskConfig, task: Task, split: str, source: Source) -> np.ndarray | None:
    """Return which readable rows of a source are those of a split that `find_source` found (n,) bool; None for all."""
    if split not in ("train", "dev"):
        return None
    dev_rows = rows_held_out(config, task, source)
    return dev_rows if split == "dev" else _rest(dev_rows)


def read_split(
    task: Task, config: TaskConfig, split: str, source: Source, target: Target, policy: str, *, fit: bool = False,
    rows: np.ndarray | None = None,
) -> Split:  # fmt: skip
    """Read every row once: check it, parse its label, and drop its texts.

    Where the configuration keeps unlabeled rows, an empty label is no error: training keeps such a row, from which the task learns
    nothing, unless they are most of the rows; other splits leave it out.

    Args:
        policy: `skip` leaves bad rows out, everything else makes them errors.
        fit: fit the target on these rows, which are those of training.
        rows: which readable rows of the source belong to the split (n,) bool; None for all.

    Raises:
        NoRows: no row can be used.
        MtlError: one line for each bad row, with file and line.
    """
    words = in_words(split)
    where = f"tasks.{task.name} ({words})"
    if is_empty(source):
        raise NoRows(f"{source.name}: is empty: no rows for {where}")
    columns, encoding = find_columns(source, config, task), encoding_of(config)
    # Only rows for evaluation are resampled by group, and a training file may lack the column.
    group_column = None if fit else _group_column(config, task, source)
    is_weighted = fit or config.weighted_metrics
    weight_column = _weight_column(config, task, source, columns) if is_weighted or rows is not None else None
    if not is_weighted:
        weight_column = None
    bad = BadRows("skip" if policy == "skip" else "error")
    # Records that cannot be read are reported once, with the training rows of the same file.
    unreadable = BadRows("skip") if rows is not None and split == "dev" else bad
    keep_unlabeled = config.unlabeled == "keep"
    no_label = frozenset(task.no_label if config.no_label is None else config.no_label)
    marks, dropped = Counter[str](), FilterCounts()
    ordinals, lines, hashes, groups = [], [], [], []
    weights: list[float] = []
    without_label: list[bool] = []
    raws: list[Raw] = []
    items: list[Any] = []
    # A few labels occur a million times: rows share one mapping and one parsed item, and bad labels their message.
    seen: dict[str, tuple[Raw, Any, str]] = {}
    shares = "texts" not in target.columns
    for ordinal, row in enumerate(rows_of(source, unreadable, dropped)):
        if rows is not None and not rows[ordinal]:
            continue
        label = _label_in(row, columns.labels, target, source)
        texts, problem = _texts_in(row, columns, source, encoding)
        is_labeled = not (keep_unlabeled and target.is_missing(label))
        if isinstance(label, str) and label in no_label:
            marks[label] += 1
            if not keep_unlabeled:
                continue
            is_labeled = False
        raw: Raw
        # A row whose texts cannot be used is reported for that alone, so its label is not parsed.
        if problem:
            raw, item, wrong_label = {}, None, ""
        elif not is_labeled:
            raw, item, wrong_label = ({"label": None, "texts": texts}, None, "")
        elif not shares or not isinstance(label, str):
            raw, item, wrong_label = _parsed(target, columns, label, texts)
        else:
            label = sys.intern(label)
            if label not in seen:
                seen[label] = _parsed(target, columns, label, texts)
            raw, item, wrong_label = seen[label]
        weight, wrong_weight = (1.0, "") if weight_column is None else _weight_in(row, weight_column)
        if problem or wrong_label or wrong_weight:
            bad.report(source.name, row.line, problem or wrong_label or wrong_weight)
            continue
        without_label.append(not is_labeled)
        weights.append(weight)
        ordinals.append(ordinal)
        lines.append(row.line)
        raws.append(raw)
        items.append(item)
        hashes.append(_text_hash(texts))
        if group_column is not None:
            # One string for all rows of a group.
            groups.append(sys.intern(row.values.get(group_column, "").strip()))
    missing, total = sum(without_label), len(raws)
    # A split for evaluation has no use for them; and where they are most of the rows, batches would hold few labels.
    leaves_out = missing > 0 and (not fit or 2 * missing > total)
    kept = [number for number in range(total) if not (leaves_out and without_label[number])]
    if kept and (part := config.part_of(split)) is not None:
        ranks = np.frombuffer(b"".join(hashes[number] for number in kept), dtype="<u8")
        is_in = held_out.in_part(ranks, [groups[number] for number in kept] if groups else (), part)
        kept = [number for number, stays in zip(kept, is_in.tolist(), strict=True) if stays]
    if fit and total > missing:
        with_label = [raw for raw, is_missing in zip(raws, without_label, strict=True) if not is_missing]
        try:
            target = target.fit(with_label)
        except MtlError as error:
            raise MtlError(*(f"{source.name}: tasks.{task.name}.{line}" for line in error.lines)) from None
        # What training settles, such as a scheme of tags, can make a row bad that looked fine before.
        fitting: list[int] = []
        for number in kept:
            raw = raws[number]
            try:
                items[number] = target.unlabeled(raw) if without_label[number] else target.parse(raw)
                fitting.append(number)
            except BadLabel as error:
                bad.report(
                    source.name, lines[number], f"{columns.label if error.column == 'label' else error.column}{error}"
                )
        kept = fitting
    if len(kept) < total:
        ordinals, lines, weights = _chosen(ordinals, kept), _chosen(lines, kept), _chosen(weights, kept)
        hashes, raws, items = _chosen(hashes, kept), _chosen(raws, kept), _chosen(items, kept)
        groups, without_label = _chosen(groups, kept) if groups else [], _chosen(without_label, kept)
    # After the target is fitted, so that labels which it rejects are reported with the other bad rows.
    bad.raise_if_any()
    unlabeled = marks.total()
    skipped = f"{task.name} {words}: {bad.summary()}" if bad.count else ""
    if source.where is not None and dropped.rows and not (raws or bad.count or unlabeled):
        raise MtlError(
            f"{source.where.key}: {source.name} has no row where {source.where.describe()}; in its {counted(dropped.rows, 'row')} "
            f"{dropped.describe()}"
        )
    # Also true if there is no row at all.
    if all(without_label):
        marked = f"; {unlabeled} rows have no label ({one_of(sorted(marks))})" if unlabeled else ""
        raise NoRows(f"{source.name}: no usable row for {where}{'; ' if skipped else ''}{bad.summary()}{marked}")
    if weight_column is not None and not any(weights):
        raise MtlError(f"{source.name}: the weight of every row is 0; expected some numbers > 0")
    gold = target.pack(items)
    labeled = np.flatnonzero(~np.array(without_label))
    raws = _chosen(raws, labeled.tolist())
    if fit and target.is_constant(gold.take(labeled)):
        label = quotable(cell_text(raws[0]["label"]))
        raise MtlError(
            f'{source.name}: every row has the {columns.label} "{label}"; expected at least two different ones'
        )
    warnings = [skipped] if skipped else []
    if isinstance(source, FileSource):
        wanted = (*(config.text or task.texts), *labels_of(source, config, task))
        note = source.header_note(wanted, f"--set tasks.{task.name}.header=false")
        warnings += [f"{task.name} {words}: {note}"] if note else []
    remarks = target.remarks(raws, gold.take(labeled), columns.label, training=split == "train")
    warnings += [f"{task.name} {words}: {remark}" for remark in remarks]
    notes = list(target.notes(raws, training=split == "train"))
    if unlabeled and not keep_unlabeled:
        notes.append(
            f"{unlabeled} rows are left out, because their label is {one_of(sorted(map(repr, marks)))} (no_label)"
        )
    if missing:
        rest = " and of its batches" if fit and leaves_out else ""
        notes.append(f'{missing:,} of {total:,} rows have no label in "{columns.label}": left out of this task{rest}')
    # Rows held out of training are those of the same file, about which the training split has the note.
    if source.where is not None and dropped.rows and not (rows is not None and split == "dev"):
        notes.append(f"{counted(dropped.rows, 'row')} of {source.name} dropped; kept where {source.where.describe()}")
    if rows is not None and split == "dev":
        notes.append(
            f"{len(items)} rows of {source.name} are held out (dev: {config.dev}, dev_seed: {config.dev_seed})"
        )
    return Split(
        task.name, split, source, columns, target, encoding, np.asarray(ordinals), np.asarray(lines), gold,
        np.frombuffer(b"".join(hashes), dtype=np.uint64), tuple(warnings),
        tuple(f"{task.name} {words}: {note}" for note in notes),
        None if group_column is None else RowGroups.of(groups),
        None if weight_column is None else np.asarray(weights, dtype=np.float64),
    )  # fmt: skip


def _chosen(values: list[V], numbers: Sequence[int]) -> list[V]:
    return [values[number] for number in numbers]


def _group_column(config: TaskConfig, task: Task, source: Source) -> str | None:
    """Return the column of the groups, None if the task has none. Raise MtlError if the source has no such column."""
    return None if config.group is None else row_column(source, config.group, f"tasks.{task.name}.group")


def values_of(row: TextRow, columns: Sequence[str], source: Source, nested: bool) -> list[Any]:
    """Return a row's values: texts, and with `nested` also lists and objects where a source has them."""
    if not nested or not (isinstance(source, MadeRows) or source.format.has_nesting):
        return [row.values.get(column, "") for column in columns]
    values = [row.original.get(column) for column in columns]
    return [
        value if isinstance(value, list | dict | tuple) else row.values.get(column, "")
        for column, value in zip(columns, values, strict=True)
    ]


def _label_in(row: TextRow, columns: Sequence[str], target: Target, source: Source) -> Any:
    """Return a row's label in one of the forms that the target reads; text without outer spaces."""
    if not columns:
        return ""
    if len(columns) > 1:
        return {column: row.values[column].strip() for column in columns}
    nested = "nested" in target.forms
    # A key that is null or missing; `values` has an empty text for both.
    if nested and row.original and row.original.get(columns[0]) is None:
        return None
    (value,) = values_of(row, columns, source, nested)
    return value.strip() if isinstance(value, str) else value


def _texts_in(row: TextRow, columns: Columns, source: Source, encoding: RowEncoding) -> tuple[RowTexts, str]:
    """Return the texts of a row and what is wrong with them, "" where they can be used."""
    try:
        texts = encoding.texts(values_of(row, columns.texts, source, encoding.nested))
    except BadText as error:
        return (), f"{columns.texts[error.column]}{error}"
    empty = [columns.texts[number] for number in encoding.empty(texts)]
    return texts, f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty" if empty else ""


def _weight_column(config: TaskConfig, task: Task, source: Source, columns: Columns) -> str | None:
    """Return the column with the weights of the rows; None for a task without one.

    Raises:
        MtlError: there is no such column, or it is a text or a label.
    """
    if config.weight is None:
        return None
    where = f"tasks.{task.name}.weight"
    try:
        column = source.column(config.weight)
    except MtlError as error:
        raise MtlError(*(f"{where}: {line}" for line in error.lines)) from error
    if column in (*columns.texts, *columns.labels):
        raise MtlError(f'{where}: "{column}" is a text or the label, so it cannot be the weight too')
    return column


def _weight_in(row: TextRow, column: str) -> tuple[float, str]:
    """Return a row's weight and what is wrong with it, "" where it can be used."""
    text = row.values[column].strip()
    weight = number_in(text)
    if weight is None or weight < 0:
        return 0.0, f'{column}: found "{quotable(text)}", expected a number >= 0' if text else f"{column} is empty"
    return weight, ""


def _normalized(split: Split, weights: np.ndarray) -> np.ndarray:
    """Return the weights of a split's rows (n,), scaled to a mean of 1 per loss unit, so that the loss keeps its scale.

    Raises:
        MtlError: no row with a known label has a weight above 0.
    """
    units = split.target.units(split.gold)
    total = float(weights @ units)
    if not total:
        raise MtlError(f"{split.source.name}: the weight of every row is 0; expected some numbers > 0")
    return weights * (units.sum() / total)


def _hash_of_row(row: TextRow, columns: Sequence[str], source: Source, encoding: RowEncoding, key: bytes) -> bytes:
    """Return 8 bytes that identify the texts of a row; of one that cannot be read, its cells."""
    texts, problem = _texts_in(row, Columns(tuple(columns)), source, encoding)
    return _text_hash([row.values.get(column, "") for column in columns] if problem else texts, key)


def _parsed(target: Target, columns: Columns, label: Any, texts: RowTexts) -> tuple[Raw, Any, str]:
    """Return what the target reads of a row, the item it stands for, and what is wrong with it ("" where it can be used)."""
    raw: dict[str, Any] = {"label": label}
    if "texts" in target.columns:
        raw["texts"] = texts
    try:
        return raw, target.parse(raw), ""
    except BadLabel as error:
        return raw, None, f"{columns.label if error.column == 'label' else error.column}{error}"


def _text_hash(texts: Sequence[Text], key: bytes = b"") -> bytes:
    """Return 8 bytes that identify the texts of a row; another key gives other bytes."""
    # `replace`: a JSON list can hold a lone surrogate, which UTF-8 cannot encode.
    return hashlib.blake2b("\0".join(map(content, texts)).encode("utf-8", "replace"), digest_size=8, key=key).digest()


def _subset(split: Split, rows: int, seed: int, *, stratify: bool) -> Split:
    """Draw rows of a split, as a function of the seed and the texts, so that tasks with the same rows keep the same ones.

    With `stratify`, classes keep their shares.
    """
    random = np.random.Generator(np.random.PCG64(seed_for(seed, "max_rows", split.texts_digest)))
    strata = split.target.strata(split.gold) if stratify else None
    if strata is None:
        # Sorted, because `Split.texts` reads the source once, in order.
        drawn = np.sort(random.choice(len(split), size=rows, replace=False))
    else:
        classes, counts = np.unique(strata, return_counts=True)
        parts = [
            random.choice(np.flatnonzero(strata == label), size=size, replace=False)
            for label, size in zip(classes, shares_of(counts, rows), strict=True)
        ]
        drawn = np.sort(np.concatenate(parts))
    return replace(
        split, ordinals=split.ordinals[drawn], lines=split.lines[drawn], gold=split.gold.take(drawn),
        hashes=split.hashes[drawn], weights=None if split.weights is None else split.weights[drawn],
    )  # fmt: skip


def shares_of(counts: np.ndarray, rows: int) -> np.ndarray:
    """Return how many of `rows` rows each class gets (C,), in proportion to its rows (C,), by largest remainders.

    Every class gets one row or more, unless there are fewer rows than classes.
    """
    quotas = rows * counts / counts.sum()
    sizes = np.floor(quotas).astype(np.int64)
    if rows >= len(counts):
        sizes = np.maximum(sizes, 1)
    while sizes.sum() < rows:
        sizes[np.argmax(quotas - sizes)] += 1
    while sizes.sum() > rows:
        # The sum can exceed `rows` only because classes below 1 were raised to 1.
        sizes[np.argmax(np.where(sizes > 1, sizes - quotas, -np.inf))] -= 1
    return sizes


def overlap(train: Split, other: Split) -> int:
    """Count the rows of another split whose texts also occur in training."""
    return int(np.isin(other.hashes, train.hashes).sum())
