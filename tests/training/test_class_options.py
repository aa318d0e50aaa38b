"""Options of classes and rows in whole runs: refusals before data is read, the plan, dev losses, and exact resumption."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlcli.config.changes import check_unchanged
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.heads.class_contrastive import ClassContrastive
from mtlcli.model.predict import loss_on, predict_rows
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.training.class_options import check_class_options
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import TrainingRun, set_up
from small import small_values

WORDS = "the a cook waiter cat dog sees likes finds loses big small red green house tree".split()
SHARES = {"common": 30, "mid": 8, "rare": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of three classes, 30, 8 and 2, with weights of 0 to 3; pairs of two classes; and scores."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.Generator(np.random.PCG64(4))

    def text() -> str:
        return " ".join(random.choice(WORDS, int(random.integers(3, 9))))

    for split in ("train", "dev"):
        tone = [label for label, count in SHARES.items() for _ in range(count)]
        rows = [f"{text()}\t{tone[at]}\t{at % 4}" for at in random.permutation(len(tone))]
        (folder / f"tone-{split}.tsv").write_text("sentence\tlabel\tw\n" + "\n".join(rows) + "\n")
        same = [f"{text()}\t{text()}\t{int(at % 4 == 0)}\t{1 + at % 3}" for at in range(28)]
        (folder / f"same-{split}.tsv").write_text("sentence1\tsentence2\tlabel\tw\n" + "\n".join(same) + "\n")
        near = [f"{text()}\t{text()}\t{random.random() * 5:.2f}\t{at % 2}" for at in range(24)]
        (folder / f"near-{split}.tsv").write_text("sentence1\tsentence2\tscore\tw\n" + "\n".join(near) + "\n")
    return folder


def config(
    files: Path, *, tone: dict | None = None, same: dict | None = None, near: dict | None = None, **sections
) -> Config:
    values = small_values(files)
    for name, section in (("tone", tone), ("same", same), ("near", near)):
        values["tasks"][name] |= section or {}
    return resolve([Layer(values | sections)])


ALL = {
    "tone": {
        "class_weights": "auto-sqrt",
        "focal": 1.5,
        "weight": "w",
        "sampling": "balanced",
        "max_rows": 36,
        "stratify": True,
    },
    "same": {"class_weights": {"1": 2}, "label_smoothing": 0.1, "weight": "w", "head": "pair-concat", "encoding": "bi"},
    "near": {"weight": "w"},
}


def refusals(call, *arguments, **more) -> list[str]:
    with pytest.raises(MtlError) as error:
        call(*arguments, **more)
    return list(error.value.lines)


# Before data is read


def test_a_score_has_no_classes_to_weight_smooth_or_draw():
    near = {"class_weights": "auto", "label_smoothing": 0.1, "sampling": "balanced", "stratify": True}
    assert refusals(check_class_options, config(Path("no-such-folder"), near=near)) == [
        f"tasks.near.{key}: this task predicts a score in the range of the training rows, and {key} needs {needs}; remove {key}"
        for key, needs in (
            ("class_weights", "classes"), ("label_smoothing", "classes"),
            ("sampling", "one class for each row"), ("stratify", "one class for each row"),
        )
    ]  # fmt: skip


def test_focal_loss_and_label_smoothing_exclude_each_other():
    lines = refusals(config, Path("x"), tone={"focal": 2, "label_smoothing": 0.1})
    assert lines == ["tasks.tone.focal: focal and label_smoothing exclude each other; remove one of them"]
    assert config(Path("x"), tone={"focal": 0, "label_smoothing": 0.1}).tasks["tone"].label_smoothing == 0.1


def test_smoothed_labels_and_a_teacher_are_refused_before_data_is_read():
    balancer = {"name": "distill-anneal", "teachers": {"same": "no-such-run"}}
    values = config(
        Path("no-such-folder"), same={"label_smoothing": 0.1}, tone={"label_smoothing": 0.1}, balancer=balancer
    )
    assert refusals(set_up, values) == [
        "tasks.same.label_smoothing: the predictions of a teacher are soft labels already (balancer.teachers.same); remove one "
        "of them"
    ]


def test_a_head_with_a_loss_and_batches_of_its_own_is_refused():
    tone = {"head": "class-contrastive", "sampling": "balanced", "class_weights": "auto", "focal": 1}
    assert refusals(check_class_options, config(Path("no-such-folder"), tone=tone)) == [
        'tasks.tone.head: "class-contrastive" does not support class_weights, focal; remove them, or use another head',
        'tasks.tone.sampling: the batches of the head "class-contrastive" have equally many rows of every class; remove sampling',
    ]


def test_tags_are_weighted_by_word_and_never_drawn_by_class(tmp_path):
    sentences = ["Ann NNP\nsees VBZ\nEve NNP\n", "dogs NNS\nbark VBP\n", "Eve NNP\n"]
    (tmp_path / "train.conll").write_text("\n".join(sentences))
    (tmp_path / "dev.conll").write_text(sentences[0])
    files = {"kind": "tagging", "train": str(tmp_path / "train.conll"), "dev": str(tmp_path / "dev.conll")}

    def tagging(**options) -> Config:
        values = small_values(Path("x"))
        values["tasks"] = {"pos": files | {"class_weights": "auto", **options}}
        return resolve([Layer(values)])

    run = set_up(tagging())
    assert (
        "pos: class weights auto: NNS 1.5, VBP 1.5, VBZ 1.5, NNP 0.5" in run.plan.notes
    )  # 6 words / (4 tags * 3 or 1)
    assert refusals(check_class_options, tagging(head="tag-crf", label_smoothing=0.1, sampling="balanced")) == [
        "tasks.pos.sampling: this task predicts a tag for each word, and sampling needs one class for each row; remove sampling",
        'tasks.pos.head: "tag-crf" does not support class_weights, label_smoothing; remove them, or use another head',
    ]


def test_declared_classes_are_compared_before_data_is_read():
    tone = {"labels": ["common", "mid", "rare"], "class_weights": {"rar": 4}}
    expected = ['tasks.tone.class_weights: no class "rar"; did you mean "rare"?']
    assert refusals(check_class_options, config(Path("no-such-folder"), tone=tone)) == expected


@pytest.mark.parametrize(
    "value",
    [
        "automatic",
        {"rare": -1},
        {"rare": "many"},
        {"rare": math.inf},
        {"rare": math.nan},
        {"rare": True},
        {},
        3,
        [1, 2],
    ],
)
def test_weights_are_a_rule_or_numbers_by_name(value):
    (line,) = refusals(config, Path("x"), tone={"class_weights": value})
    assert line.startswith("tasks.tone.class_weights: found ") and line.endswith(
        "expected auto, auto-sqrt, or weights >= 0 of classes by name, such as {rare: 4}"
    )


@pytest.mark.parametrize(
    "option",
    [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"focal": -1}, {"sampling": "even"}, {"weight": True}],
)
def test_other_values_out_of_bounds_are_named(option):
    (line,) = refusals(config, Path("x"), tone=option)
    assert line.startswith(f"tasks.tone.{next(iter(option))}: found ")


def test_a_class_can_have_any_name_in_a_recipe():
    section = config(Path("x"), tone={"class_weights": {"1": 2, "true": "3"}}).tasks["tone"]
    assert section.class_weights == {"1": 2.0, "true": 3.0}
    plain = resolve([Layer(config(Path("x"), tone={"class_weights": {"1": 2, "true": "3"}}).plain())])
    assert plain.tasks["tone"].class_weights == section.class_weights


# With the data


def test_a_weight_for_a_class_that_training_lacks_is_refused(files):
    lines = refusals(set_up, config(files, tone={"class_weights": {"rar": 4}}))
    assert lines == ['tasks.tone.class_weights: no class "rar"; did you mean "rare"?']
    lines = refusals(set_up, config(files, tone={"class_weights": dict.fromkeys(SHARES, 0)}))
    assert lines == ["tasks.tone.class_weights: every class of the training rows has weight 0; give one of them more"]


def test_a_head_that_does_not_say_that_its_loss_is_its_own_is_refused_when_it_is_built(files, monkeypatch):
    monkeypatch.setattr(ClassContrastive, "own_loss", False)
    lines = refusals(set_up, config(files, tone={"head": "class-contrastive", "label_smoothing": 0.1}))
    assert lines == [
        'tasks.tone.head: "class-contrastive" does not support label_smoothing; remove it, or use another head'
    ]


def test_the_plan_says_what_changes_the_loss(files):
    run = set_up(config(files, **ALL))
    tone, same, near = (note for note in run.plan.notes if "mean 1" in note)
    # The root of 27, 7 and 2 rows, with a mean of 1: n / sum_c sqrt(n_c) = 36 / 9.2561, divided by sqrt(n_c).
    assert tone == (
        'tone: class weights auto-sqrt: rare 2.75, mid 1.47, common 0.748; focal loss with gamma 1.5; row weights from "w": 0 to '
        f"{run.tasks[0].splits['train'].weights.max():.3g}, mean 1, 0 for {int((run.train[0].tokenized.weights == 0).sum())} rows; "
        "balanced sampling, times that a pass draws each row: rare 6, mid 1.71, common 0.444"
    )
    assert same == (
        'same: class weights by name: 1 2, 0 1; label smoothing 0.1; row weights from "w": 0.509 to 1.53, mean 1'
    )
    assert near == 'near: row weights from "w": 0 to 2, mean 1, 0 for 12 rows'
    assert (
        "tone: sampling balanced and class_weights auto-sqrt both correct for rare classes; use one of them"
        in run.plan.warnings
    )
    assert not [note for note in set_up(config(files)).plan.notes if "weight" in note]


def test_balancers_that_measure_the_distance_from_0_are_told_of_the_floor(files):
    floor = "same: with label smoothing the training loss cannot fall below 0.25, and uncertainty weights tasks by their distance from 0"
    same = {"class_weights": {"1": 2}, "label_smoothing": 0.1}
    assert floor in set_up(config(files, same=same, balancer="uncertainty")).plan.notes
    assert not [note for note in set_up(config(files, same=same, balancer="dwa")).plan.notes if "cannot fall" in note]


def test_absent_and_very_rare_classes_are_warnings(tmp_path, files):
    rows = ["a b\tcommon"] * 300 + ["b c\trare"]
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    tone = {"train": str(tmp_path / "train.tsv"), "labels": ["common", "mid", "rare", "never"]}
    plan = set_up(config(files, tone=tone | {"class_weights": "auto"})).plan
    assert "tone: no training row has mid, never; the class weight is 0" in plan.warnings
    assert "tone: the class weight of rare is limited to 100" in plan.warnings


def test_facts_hold_the_loss_of_a_guess(files):
    run = set_up(config(files, **ALL))
    tone, same, near = run.facts
    weights = np.array([2.7502, 1.4700, 0.7485])
    assert tone.class_loss.weights[2] == pytest.approx(weights[0], abs=1e-3)
    assert tone.guess == pytest.approx(weights.mean() * (2 / 3) ** 1.5 * math.log(3), abs=1e-3)  # classes drawn evenly
    assert same.guess == pytest.approx((21 + 2 * 7) / 28 * math.log(2))
    assert near.guess == 1.0
    assert run.train[0].per_pass == -(-36 // 8) and tone.batches == run.train[0].per_pass


def test_the_loss_on_dev_is_plain_and_that_of_training_is_not(files):
    run, plain = (
        set_up(config(files, **ALL)),
        set_up(config(files, tone={"max_rows": 36, "stratify": True}, same={"head": "pair-concat", "encoding": "bi"})),
    )
    for task, name in enumerate(("tone", "same", "near")):
        losses = []
        for setup in (run, plain):
            setup.model.load_state_dict(run.model.state_dict())
            setup.model.train()
            predicted = predict_rows(setup.model, {task: setup.dev[name]["dev"]}, setup.device, setup.autocast)[task]
            losses.append((predicted.loss, loss_on(setup.model, setup.train[task].longest(), setup.autocast)))
        assert losses[0] == pytest.approx(losses[1])
    assert run.train[0].longest().weights is not None and plain.train[0].longest().weights is None


# Runs


def steps(values: Config, folder: Path, stop_after: int | None = None, resume: bool = False) -> TrainingRun:
    saved = inspect_folder(folder, resume=resume, overwrite=False).checkpoint
    prepared = set_up(
        values, encoder_from=saved.folder / "encoder" if saved else None, first_step=saved.step if saved else 0
    )
    done = [0]
    for event in train(prepared, folder, resume_from=saved, stop=lambda: done[-1] == stop_after):
        if isinstance(event, Stepped):
            done.append(event.step)
            assert not event.skipped and all(math.isfinite(loss) for loss in event.losses.values())
    return prepared


def state(folder: Path) -> dict[str, torch.Tensor]:
    place, _ = checkpoint.latest(folder / "checkpoints")
    return {
        f"{part}/{key}": value
        for part in ("model", "optimizer", "plugins", "random")
        for key, value in place.tensors(part).items()
    }


def lines(folder: Path) -> list[dict]:
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read]


@pytest.mark.parametrize(
    "methods",
    [
        {"balancer": "uncertainty+pcgrad", "regularizers": ["smart"]},
        {
            "scheduler": "entropy",
            "training": {"steps": 12, "steps_per_epoch": 4, "batch_size": 8, "device": "cpu", "micro_batches": 3},
        },
        {
            "scheduler": {"name": "stages", "stages": [{"steps": 5, "freeze": ["layer.0"]}, {"steps": 7}]},
            "balancer": "famo",
        },
    ],
    ids=["uncertainty+pcgrad, smart", "entropy", "stages, famo"],
)
def test_a_run_with_all_of_it_resumes_bit_by_bit(files, tmp_path, methods):
    values = config(files, **ALL, **methods)
    steps(values, tmp_path / "whole")
    steps(values, tmp_path / "broken", stop_after=7)
    steps(values, tmp_path / "broken", resume=True)
    assert lines(tmp_path / "whole") == lines(tmp_path / "broken")
    whole, broken = state(tmp_path / "whole"), state(tmp_path / "broken")
    assert whole.keys() == broken.keys() and all(torch.equal(whole[key], broken[key]) for key in whole)


def test_a_teacher_and_row_weights_work_together(files, tmp_path):
    """With the weight of labels at 0, the gradient is that of the teacher's labels, times the weights of classes and rows."""
    steps(
        config(files, training={"steps": 2, "steps_per_epoch": 2, "batch_size": 8, "device": "cpu"}),
        tmp_path / "teacher",
    )
    balancer = {"name": "distill-anneal", "teachers": {"tone": str(tmp_path / "teacher")}, "mode": "fixed", "weight": 0}
    tone = {"class_weights": {"rare": 5}, "weight": "w", "head": {"name": "linear", "dropout": 0}}
    run = set_up(config(files, tone=tone, balancer=balancer))
    run.model.eval()
    head = run.model.head(0)
    head.train()
    batch = run.train[0].next()
    output = run.model(0, batch)
    losses = head.loss(output, batch.gold)
    found = (run.engine.passes._mixed(0, batch, output, losses) * batch.weights).sum()
    p = torch.from_numpy(run.balancer.teacher_targets[0]["probabilities"][batch.rows]).float()
    classes = torch.tensor([1.0, 1.0, 5.0])
    expected = -(p * classes * torch.log_softmax(output, -1)).sum(-1) @ batch.weights
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("class_weights", {"tone": ALL["tone"] | {"class_weights": "auto"}}),
        ("focal", {"tone": ALL["tone"] | {"focal": 2}}),
        ("weight", {"tone": ALL["tone"] | {"weight": None}}),
        ("sampling", {"tone": ALL["tone"] | {"sampling": None}}),
        ("stratify", {"tone": ALL["tone"] | {"stratify": False}}),
    ],
)
def test_what_changes_the_training_cannot_change_on_resuming(files, key, change):
    (line,) = refusals(check_unchanged, config(files, **ALL), config(files, **(ALL | change)))
    assert line.startswith(f"--resume: tasks.tone.{key}: was ")


def test_other_weights_in_the_file_are_other_rows(files, tmp_path):
    copy = tmp_path / "near.tsv"
    copy.write_text((files / "near-train.tsv").read_text())
    near = {"train": str(copy), "weight": "w"}
    steps(config(files, near=near), tmp_path / "run", stop_after=2)
    copy.write_text(copy.read_text().replace("\t1\n", "\t2\n", 1))
    (line,) = refusals(steps, config(files, near=near), tmp_path / "run", resume=True)
    assert "the rows of near.train (weights) have changed since this run was trained" in line


def test_the_first_losses_of_an_untrained_model_are_those_of_a_guess(files):
    """Class weights are balanced and rows weigh 1 in the mean, so that a loss keeps its scale."""
    run = set_up(config(files, tone={"class_weights": "auto", "weight": "w"}))
    run.model.train()
    with torch.no_grad():
        run.model.head(0).out.weight.zero_()
        run.model.head(0).out.bias.zero_()
        total = units = 0.0
        for _ in range(run.train[0].per_pass):
            batch = run.train[0].next()
            total += float(run.model.losses(0, run.model(0, batch), batch).sum())
            units += batch.units
    assert total / units == pytest.approx(math.log(3), abs=1e-5) == pytest.approx(run.facts[0].guess)
