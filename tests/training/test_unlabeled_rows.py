"""Rows without a label for one of the tasks that read them: no unit of a loss, no part in a metric."""

import pytest

from columns import config_of, write_table
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import set_up
from mtlcli.training.state import Progress
from mtlcli.training.step import take_step
from small import small_values


def test_an_empty_cell_is_no_label_for_this_task_alone(tmp_path):
    run = set_up(config_of(write_table(tmp_path, missing=0.3), "tone", "near", "rare"))
    near, rare = (run.tasks[index].splits["train"] for index in (1, 2))
    missing = len(near) - near.labeled
    assert len(near) == 40 and 0 < missing < 20
    assert [fact.rows for fact in run.facts] == [40, near.labeled, 8]
    assert f'near train: {missing} of 40 rows have no label in "near": left out of this task' in run.plan.notes
    # Of the rare class, more than half is missing: it keeps its own rows, and shares nothing.
    assert [source.group for source in run.train] == [0, 0, None] and len(rare) == 8
    assert (
        'rare train: 32 of 40 rows have no label in "rare": left out of this task and of its batches' in run.plan.notes
    )
    assert (
        f"tone and rare read {rare.source.name}, but share no pass of the encoder: they train on different rows (40 and 8)"
        in (run.plan.notes)
    )
    assert len(run.tasks[1].dev["dev"]) == run.tasks[1].dev["dev"].labeled < 20


def test_rows_without_a_label_leave_loss_and_gradient_as_if_they_were_absent(tmp_path):
    run = set_up(config_of(write_table(tmp_path, missing=0.4)))
    run.model.eval()
    batch = next(batch for batch in (run.train[1].next() for _ in range(9)) if 0 < batch.units < batch.count)
    losses = run.model.losses(1, run.model(1, batch), batch).detach()
    known = batch.gold["known"]
    assert losses[~known].tolist() == [0.0] * int((~known).sum())
    combined = run.engine.run([TaskLoss(1, (batch,))])
    assert combined.losses.item() == pytest.approx(float(losses[known].mean()), rel=1e-6)


def test_a_task_without_a_label_in_the_step_sits_it_out(tmp_path):
    folder = write_table(tmp_path)
    lines = (folder / "table-train.tsv").read_text().splitlines()
    cells = [line.split("\t") for line in lines]
    for number, row in enumerate(cells[1:]):
        row[2] = row[2] if number % 2 else ""
    (folder / "table-train.tsv").write_text("\n".join("\t".join(row) for row in cells) + "\n")
    run = set_up(config_of(folder, training={"batch_size": 1}))
    progress = Progress(cursors=[0, 0])
    with (tmp_path / "log").open("w") as log:
        stepped = [take_step(run, progress, log) for _ in range(10)]
    assert {tuple(step.losses) for step in stepped} == {("tone",), ("tone", "near")}
    assert progress.cursors == [10, 10]  # both still meet the same rows


def test_a_step_without_any_label_takes_the_next_rows(tmp_path):
    folder = write_table(tmp_path)
    cells = [line.split("\t") for line in (folder / "table-train.tsv").read_text().splitlines()]
    for number, row in enumerate(cells[1:]):
        row[1], row[2] = (row[1], row[2]) if number % 4 else ("", "")
    (folder / "table-train.tsv").write_text("\n".join("\t".join(row) for row in cells) + "\n")
    run = set_up(config_of(folder, training={"batch_size": 1}))
    progress = Progress(cursors=[0, 0])
    with (tmp_path / "log").open("w") as log:
        steps = [take_step(run, progress, log) for _ in range(12)]
    assert all(set(step.losses) == {"tone", "near"} and step.losses["tone"] > 0 for step in steps)
    first, second = progress.cursors
    assert first == second > 12


def test_a_scheduler_that_chooses_rows_is_offered_labeled_ones(tmp_path):
    folder = write_table(tmp_path, missing=0.4)
    run = set_up(config_of(folder, scheduler="entropy"))
    seen = []
    choose = run.scheduler.choose
    run.scheduler.choose = lambda pool, position: seen.append(pool) or choose(pool, position)
    progress = Progress(cursors=[0, 0])
    with (tmp_path / "log").open("w") as log:
        for _ in range(5):
            take_step(run, progress, log)
    counts = {candidates.task: 0 for candidates in seen[0]}
    for pool in seen:
        for candidates in pool:
            counts[candidates.task] += candidates.count
    # One pass over 40 rows in five steps of eight: 40 rows with a tone, and those with a score.
    assert counts == {0: 40, 1: run.tasks[1].splits["train"].labeled}


def test_nothing_is_learned_from_a_teacher_for_rows_without_a_label(tmp_path):
    run = set_up(config_of(write_table(tmp_path, missing=0.4)))
    run.model.eval()
    batch = next(batch for batch in (run.train[1].next() for _ in range(9)) if 0 < batch.units < batch.count)
    run.engine.balancer.batch_losses = lambda losses: losses.losses + 7.0
    combined = run.engine.run([TaskLoss(1, (batch,))])
    assert combined.totals.item() == pytest.approx(combined.losses.item() + 7.0, rel=1e-6)


def test_an_empty_set_of_labels_is_a_label(tmp_path):
    (tmp_path / "t.tsv").write_text(
        "text\ttags\ttone\n"
        + "".join(
            f"words {number}\t{tags}\t{tone}\n"
            for number, (tags, tone) in enumerate([("a|b", "x"), ("", "y"), ("a", ""), ("b", "x")])
        )
    )
    (tmp_path / "t.jsonl").write_text(
        "".join(
            f'{{"text": "words {number}"{tags}, "tone": "{tone}"}}\n'
            for number, (tags, tone) in enumerate(
                [(', "tags": ["a", "b"]', "x"), (', "tags": []', "y"), ("", "x"), (', "tags": null', "y")]
            )
        )
    )
    for file, units in (("t.tsv", [1, 1, 1, 1]), ("t.jsonl", [1, 1, 0, 0])):
        section = {"train": str(tmp_path / file), "text": "text"}
        tasks = {
            "tags": {"kind": "multi-label", "label": "tags", **section},
            "tone": {"kind": "classification", "label": "tone", **section},
        }
        split = set_up(resolve([Layer({**small_values(tmp_path), "tasks": tasks})])).tasks[0].splits["train"]
        assert split.target.units(split.gold).tolist() == units


def test_different_rows_of_one_file_must_have_labels(tmp_path):
    (tmp_path / "t.tsv").write_text("text\tlanguage\ttone\na\tde\tx\nb\tde\ty\nc\tfr\tx\nd\tfr\t\ne\tfr\ty\n")
    tasks = {
        name: {
            "kind": "classification",
            "train": str(tmp_path / "t.tsv"),
            "text": "text",
            "label": "tone",
            "where": {"language": name},
        }
        for name in ("de", "fr")
    }
    with pytest.raises(MtlError, match=r"t\.tsv:5: tone is empty"):
        set_up(resolve([Layer({**small_values(tmp_path), "tasks": tasks})]))
