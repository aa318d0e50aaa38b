"""The contract of tasks."""

import torch

from mtlcli import registry
from mtlcli.config.schema import WHOLE_ROWS
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import HeadFacts
from mtlcli.tasks.base import HubSource, Task, sample_rows
from mtlcli.tasks.targets import BadLabel, Raw, Target
from mtlcli.tasks.words import Words
from mtlcli.testing.common import DIM, checked_options, expect, listed


def check_task(plugin: type[Task], **options: object) -> None:
    """Check what a task declares, and its made-up rows if it has any.

    - encodings fit the number of texts; heads and metrics exist, and every head can be built for this task;
    - made-up rows have the task's columns, are the same in two calls, and their labels can be read; no dev or test row has
      the texts of a training row.
    """
    checked = checked_options(plugin, Task, 1, options)
    name, task = plugin.__name__, plugin("mine", **checked)
    expect(task.name == "mine", f"{name}.name: expected the name passed to the constructor, found {task.name!r}")
    expect(
        isinstance(getattr(task, "target", None), Target),
        f"{name}.target: expected a Target such as Classes(...) or Score(...)",
    )
    counts = task.text_columns or (1 + task.pair,)
    expect(
        not task.texts or len(task.texts) in counts,
        f"{name}.texts: expected {listed(counts)} column(s), or none where the user decides; found {task.texts}",
    )
    heads = getattr(task, "heads", {})
    allowed = {"cross", "bi", "spans"} if task.pair else {"single", "words", "choices", "marked"}
    expect(
        heads and set(heads) <= allowed,
        f"{name}.heads: expected a head for {listed(allowed)}, found {listed(heads)}",
    )
    for file in task.files:
        expect(file in ("train", "dev", "test"), f"{name}.files: expected train, dev or test, found {file!r}")
    expect(
        task.on_bad_row in ("error", "skip"),
        f'{name}.on_bad_row: expected "error" or "skip", found {task.on_bad_row!r}',
    )
    if isinstance(task.hub, HubSource):
        columns = {*task.texts, task.label}
        expect(columns <= set(task.hub.columns), f"{name}.hub: expected the columns {listed(columns)}")
    has_labels = "label" in task.target.columns
    expect(not has_labels or getattr(task, "metrics", ()), f"{name}.metrics: expected the name of one metric or more")
    facts = _check_samples(name, task)
    for metric in task.metrics:
        registry.load("metrics", metric, name)(facts)
    for encoding, head in heads.items():
        sides = 2 if encoding == "bi" else 1
        head_class = registry.load("heads", head, name)
        expect(
            sides in head_class.sides,
            f'{name}.heads: "{head}" does not read {sides} encoding(s), which the encoding {encoding} produces',
        )
        # Only built: a head that cannot predict this target raises in its constructor.
        with torch.random.fork_rng(devices=[]):
            head_class(HeadFacts(facts, DIM, sides))
        items = "" if encoding in WHOLE_ROWS else encoding
        expect(
            head_class.items == items,
            f'{name}.heads: "{head}" predicts {head_class.items or "whole rows"}, and the encoding {encoding} gives '
            f"{items or 'whole rows'}",
        )


def _check_samples(name: str, task: Task) -> TaskFacts:
    """Check the task's made-up rows and return their facts; without such rows, the facts of three made-up labels."""
    if task.sample("train") is None:
        return TaskFacts("mine", 3, 1, task.target.fit(_made_up_rows(task.target)))
    texts: dict[str, set[tuple[str, ...]]] = {}
    facts = TaskFacts("mine", 0, 1, task.target)
    for split in ("train", "dev", "test"):
        rows = list(sample_rows(task.sample(split)))
        expect(rows or split == "test", f"{name}.sample({split!r}): expected rows")
        expect(
            rows == list(sample_rows(task.sample(split))), f"{name}.sample({split!r}): different rows in a second call"
        )
        columns = {*task.texts, task.label}
        for row in rows:
            expect(
                columns <= row.keys() and all(row[column].strip() for column in columns),
                f"{name}.sample({split!r}): expected {listed(columns)} in every row, found {row}",
            )
        raws: list[Raw] = [{"label": row[task.label]} for row in rows]
        if split == "train":
            facts = TaskFacts("mine", len(rows), 1, task.target.fit(raws))
        try:
            gold = facts.target.pack([facts.target.parse(raw) for raw in raws])
        except BadLabel as error:
            raise AssertionError(f"{name}.sample({split!r}): a label cannot be read: {error.column}{error}") from error
        shown = {repr(facts.target.gold_json(gold, row)) for row in range(len(gold))}
        expect(len(shown) > 1 or not rows, f"{name}.sample({split!r}): every row has the same label")
        texts[split] = {tuple(row[column] for column in task.texts) for row in rows}
        # Otherwise the sample's dev metrics would measure memorization.
        shared = texts["train"] & texts[split] if split != "train" else set()
        expect(
            not shared,
            f"{name}.sample({split!r}): {len(shared)} row(s) are also training rows, such as {next(iter(shared), '')}",
        )
    return facts


def _made_up_rows(target: Target) -> list[Raw]:
    """Return three rows with labels of a target."""
    if target.unit == "word":
        tags = (["O", "B-0"], ["B-1", "O"], ["O", "O"])
        return [{"label": label, "texts": (Words.joined(["a", "b"]),)} for label in tags]
    if target.unit == "query":
        answers: tuple[list[dict[str, str]], ...] = ([{"text": "0"}], [{"text": "1"}], [])
        return [{"label": label, "texts": ("what", "0 or 1")} for label in answers]
    texts = ("", "which", "0", "1", "2")
    if "columns" in target.forms:
        cells = ({"a": "1", "b": "0"}, {"a": "0", "b": "1"}, {"a": "1", "b": "0"})
        return [{"label": label, "texts": texts} for label in cells]
    return [{"label": label, "texts": texts} for label in "012"]
