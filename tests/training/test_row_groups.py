"""Several label columns of one file as several tasks: one order of rows, one pass of the encoder, the same gradients."""

import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mtlcli
from mtlcli.architectures.hard_sharing import HardSharing
from mtlcli.config.layers import Layer, dump
from mtlcli.config.resolve import resolve
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import set_up
from mtlcli.training.state import Progress
from mtlcli.training.step import take_step
from small import WORDS, small_values

METHODS = [
    {}, {"balancer": "uncertainty"}, {"balancer": "gradnorm"}, {"balancer": "uncertainty+pcgrad"}, {"balancer": "famo"},
    {"gradient_regularizer": {"name": "gradvac", "granularity": "layer"}}, {"regularizers": [{"name": "smart"}]},
    {"training": {"micro_batches": 2}}, {"architecture": "convolution"},
]  # fmt: skip


def write_table(folder: Path, *, rows: int = 40, missing: float = 0.0) -> Path:
    """Texts with a class, a score and a rare class; with `missing`, that share of the scores is empty."""
    chance = random.Random(5)
    for split, count in (("train", rows), ("dev", rows // 2)):
        lines = ["sentence\ttone\tnear\trare"]
        for number in range(count):
            text = " ".join(chance.choices(WORDS, k=chance.randint(3, 9)))
            near = "" if chance.random() < missing else f"{5 * chance.random():.2f}"
            rare = chance.choice("xy") if number % 5 == 0 else ""
            lines.append(f"{text} {split}\t{chance.choice(['good', 'bad'])}\t{near}\t{rare}")
        (folder / f"table-{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def config_of(folder: Path, *columns: str, scheduler="all-together", training=None, **sections):
    kinds = {"tone": "classification", "near": "regression", "rare": "classification"}
    files = {"train": str(folder / "table-train.tsv"), "dev": str(folder / "table-dev.tsv"), "text": "sentence"}
    values = {
        **small_values(folder),
        "tasks": {name: {"kind": kinds[name], "label": name, **files} for name in columns or ("tone", "near")},
        "scheduler": scheduler,
        **sections,
    }
    values["training"] |= training or {}
    return resolve([Layer(values)])


def passes_in(run, monkeypatch) -> list[int]:
    """Count the passes of the encoder."""
    count = [0]
    forward = HardSharing.forward

    def counted(self, task, inputs):
        count[0] += 1
        return forward(self, task, inputs)

    monkeypatch.setattr(HardSharing, "forward", counted)
    return count


def step_of(run, *, shares: bool):
    """Take one step without dropout, with shared passes or separate ones: losses, weights, and gradients by name."""
    run.model.eval()
    torch.manual_seed(3)
    micro = run.config.training.micro_batches
    step = []
    for task, source in enumerate(run.train):
        batches = tuple(source.next() for _ in range(micro))
        step.append(TaskLoss(task, batches if shares else tuple(replace(batch, group=None) for batch in batches)))
    combined = run.engine.run(step)
    named = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    return combined, named


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values())) or "equal")
def test_a_shared_pass_gives_the_gradients_of_separate_ones(tmp_path, method):
    folder = write_table(tmp_path, missing=0.2)
    together, apart = (step_of(set_up(config_of(folder, **method)), shares=shares) for shares in (True, False))
    torch.testing.assert_close(together[0].losses, apart[0].losses, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(together[0].weights, apart[0].weights, rtol=1e-5, atol=1e-6)
    assert together[1].keys() == apart[1].keys()
    # On the scale of the whole gradient: that of a key's bias is 0 but for rounding.
    total = torch.stack([gradient.norm() for gradient in apart[1].values()]).norm()
    for name, gradient in apart[1].items():
        assert (together[1][name] - gradient).norm() / total < 1e-6, name


def test_tasks_of_one_file_run_the_encoder_once_a_step(tmp_path, monkeypatch):
    run = set_up(config_of(write_table(tmp_path)))
    assert [source.group for source in run.train] == [0, 0]
    count = passes_in(run, monkeypatch)
    with (tmp_path / "log").open("w") as log:
        take_step(run, Progress(cursors=[0, 0]), log)
    assert count == [1]
    first, second = (source.next() for source in run.train)
    assert first.rows.tolist() == second.rows.tolist()
    assert run.train[0].tokenized.sides is run.train[1].tokenized.sides
    assert run.plan.notes == (
        "tone and near read the same rows: in a step they share one forward and backward pass of the encoder and its dropout "
        "(12 passes for 24 batches)",
    )


@pytest.mark.parametrize("change", [{"batch_size": 4}, {"sampling": "balanced"}, {"max_rows": 20}])
def test_tasks_with_other_rows_or_batches_share_nothing(tmp_path, change):
    folder = write_table(tmp_path)
    config = config_of(folder)
    config.tasks["tone"] = config.tasks["tone"].model_copy(update=change)
    assert [source.group for source in set_up(config).train] == [None, None]


def test_max_rows_draws_the_same_rows_for_all_columns(tmp_path):
    config = config_of(write_table(tmp_path))
    for name in ("tone", "near"):
        config.tasks[name] = config.tasks[name].model_copy(update={"max_rows": 20})
    run = set_up(config)
    assert [source.group for source in run.train] == [0, 0]
    assert [len(source.tokenized) for source in run.train] == [20, 20]


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


def test_dev_rows_that_another_task_trains_on_are_a_warning(tmp_path):
    folder = write_table(tmp_path)
    config = config_of(folder)
    config.tasks["near"] = config.tasks["near"].model_copy(
        update={"train": str(folder / "table-dev.tsv"), "dev": str(folder / "table-train.tsv")}
    )
    warnings = set_up(config).plan.warnings
    assert "tone: 20 of 20 dev rows have the texts of a training row of near" in warnings
    assert "near: 40 of 40 dev rows have the texts of a training row of tone" in warnings


def test_a_stopped_run_of_several_columns_ends_like_the_unbroken_one(tmp_path):
    config = config_of(write_table(tmp_path, missing=0.2), balancer="uncertainty+pcgrad")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(config.model_dump(exclude_none=True, by_alias=True)))

    def trained(name: str, **more):
        return mtlcli.train(recipe, output=tmp_path / name, **more)

    def interrupt(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            signal.raise_signal(signal.SIGINT)

    assert trained("whole").finished
    assert not trained("parts", on_event=interrupt).finished
    assert trained("parts", resume=True).finished
    whole, parts = ((tmp_path / name / "heads.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_a_frozen_encoder_keeps_the_features_of_a_group_once(tmp_path):
    stages = {"name": "stages", "stages": [{"epochs": 3, "freeze": ["encoder"], "scheduler": "all-together"}]}
    folder = write_table(tmp_path)
    config = config_of(folder, scheduler=stages, training={"steps": None, "steps_per_epoch": None})
    run = set_up(config)
    for event in train(run, tmp_path / "run"):
        if isinstance(event, Stepped):
            assert run.kept.train[0] is run.kept.train[1]
            assert set(run.kept.dev) == {0, 1}
