"""Whole runs with shared layers, losses that remember, and composed batches: they learn, resume and are saved like any other."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.facts import RunFacts
from mtlcli.regularizers.base import Regularizer
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.runs.saved_model import load_run
from mtlcli.tasks.targets import Classes
from mtlcli.training.dry_run import dry_run
from mtlcli.training.events import Stepped
from mtlcli.training.forward import regularization
from mtlcli.training.loop import train
from mtlcli.training.passes import TaskLoss
from mtlcli.training.rng import random_states
from mtlcli.training.setup import TrainingRun, set_up
from small import small_values, write_files

HIDDEN = {"shared": "common", "hidden": [12]}
V3 = {
    "tone": {"head": {"name": "mlp", **HIDDEN}},
    "same": {"encoding": "bi", "head": {"name": "pair-mix", **HIDDEN, "cosine_loss": 1.0, "triplet_loss": 1.0}},
    "near": {"encoding": "bi", "head": {"name": "pair-mix", **HIDDEN, "gamma": 0.5}},
}
"""LB's V3a in small."""
CONTRAST = {"tone": {"head": "class-contrastive"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


def config(files: Path, changes: dict, only: tuple[str, ...] = ("tone", "same", "near"), **sections) -> Config:
    """The small run of some tasks, with changes to each."""
    values = small_values(files)
    values["tasks"] = {name: values["tasks"][name] | changes.get(name, {}) for name in only}
    return resolve([Layer(values | sections)])


def finished(chosen: Config, folder: Path, stop_after: int | None = None) -> TrainingRun:
    """A run in a folder, or the rest of it; it is asked to stop after so many steps."""
    found = inspect_folder(folder, resume=folder.exists(), overwrite=False).checkpoint
    prepared = set_up(
        chosen, encoder_from=found.folder / "encoder" if found else None, first_step=found.step if found else 0
    )
    steps = 0

    def stop() -> bool:
        return steps == stop_after

    for event in train(prepared, folder, resume_from=found, stop=stop):
        steps += isinstance(event, Stepped)
    return prepared


# Shared layers


def test_shared_layers_are_shared_by_the_tasks_and_each_output_is_its_own(files):
    model = set_up(config(files, V3)).model
    common = {id(p) for p in model.head(0).hidden.parameters()}
    shared = {id(p) for p in model.shared_parameters()}
    assert common <= shared and len(common) == 2
    # 12 -> 2 classes; [a, b, |a-b|] of 12 -> 1
    assert [sum(p.numel() for p in model.private_parameters(task)) for task in range(3)] == [26, 37, 37]
    alone = set_up(config(files, V3, only=("tone",))).model
    assert common and not {id(p) for p in alone.head(0).hidden.parameters()} & {
        id(p) for p in alone.shared_parameters()
    }


def test_heads_and_shared_layers_start_from_the_same_weights_whatever_other_tasks_there_are(files):
    alone, together = set_up(config(files, V3, only=("same",))).model, set_up(config(files, V3)).model
    first, second = alone.head(0).state_dict(), together.head(1).state_dict()
    assert first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def test_sizes_that_do_not_agree_are_one_line(files):
    changes = V3 | {"same": {"encoding": "bi", "head": {"name": "pair-mix", **HIDDEN, "hidden": [13]}}}
    with pytest.raises(MtlError, match=r'^tasks\.same\.head\.shared: "common" is .*out_features=12.*13'):
        set_up(config(files, changes))


def test_a_gradient_regularizer_sees_the_shared_layers(files):
    prepared = set_up(config(files, V3, gradient_regularizer="pcgrad"))
    step(prepared)
    width = prepared.model.head(0).hidden[1].weight
    assert width.grad is not None and bool(width.grad.any())
    assert prepared.engine.size == sum(p.numel() for p in prepared.model.shared_parameters())


def step(prepared) -> None:
    prepared.engine.run([TaskLoss(task, (batches.next(),)) for task, batches in enumerate(prepared.train)])


def test_freezing_a_task_leaves_shared_layers_learning_and_freezing_heads_does_not(files):
    model = set_up(config(files, V3)).model
    model.freeze(("tone",))
    assert not model.head(0).out.weight.requires_grad and model.head(0).hidden[1].weight.requires_grad
    model.freeze(("heads",))
    assert not model.head(0).hidden[1].weight.requires_grad


# Saving and going on


@pytest.mark.parametrize("changes", [V3, CONTRAST], ids=["v3", "contrast"])
def test_a_stopped_and_resumed_run_is_the_unbroken_run_bit_by_bit(files, tmp_path, changes):
    finished(config(files, changes), tmp_path / "whole")
    finished(config(files, changes), tmp_path / "broken", stop_after=5)
    finished(config(files, changes), tmp_path / "broken")
    tensors = [checkpoint.latest(tmp_path / one / "checkpoints")[0].tensors("model") for one in ("whole", "broken")]
    assert all(torch.equal(value, tensors[1][key]) for key, value in tensors[0].items())
    assert any("negatives" in key or "centroids" in key for key in tensors[0])


@pytest.mark.parametrize("changes", [V3, CONTRAST], ids=["v3", "contrast"])
def test_a_saved_run_gives_what_the_trained_model_gave(files, tmp_path, changes):
    prepared = finished(config(files, changes), tmp_path / "run")
    saved, _ = load_run(tmp_path / "run")
    batches = [batches.next() for batches in prepared.train]
    prepared.model.eval()
    with torch.inference_mode():
        for task, batch in enumerate(batches):
            assert torch.equal(saved.model(task, batch), prepared.model(task, batch))
    heads = load_file(tmp_path / "run" / "heads.safetensors")
    if changes is V3:
        assert saved.model.head(0).hidden is saved.model.head(2).hidden
        assert torch.equal(heads["tone.hidden.1.weight"], heads["near.hidden.1.weight"])


def test_a_convolution_is_saved_with_the_heads_and_the_encoder_stays_plain(files, tmp_path):
    from transformers import AutoModel

    architecture = {"name": "convolution", "layer": -2, "kernel": 5}
    prepared = finished(config(files, {}, architecture=architecture), tmp_path / "run")
    assert "architecture.convolution.weight" in load_file(tmp_path / "run" / "heads.safetensors")
    plain = AutoModel.from_pretrained(tmp_path / "run" / "encoder")
    assert not [key for key in plain.state_dict() if "convolution" in key]
    saved, _ = load_run(tmp_path / "run")
    batch = prepared.train[0].next()
    with torch.inference_mode():
        assert torch.equal(saved.model(0, batch), prepared.model.eval()(0, batch))


def test_a_convolution_starts_from_the_same_weights_in_every_run_of_a_seed(files):
    torch.manual_seed(1)
    first = set_up(config(files, {}, architecture="convolution")).model.architecture.convolution.weight
    torch.manual_seed(2)
    assert torch.equal(
        first, set_up(config(files, {}, architecture="convolution")).model.architecture.convolution.weight
    )


# Losses that remember


def test_the_negatives_of_a_batch_are_the_micro_batch_before_it(files):
    prepared = set_up(config(files, V3))
    head, batches = prepared.model.eval().head(1), prepared.train[1]  # without dropout
    both = (batches.next(), batches.next())
    prepared.engine.run([TaskLoss(1, both)])
    output = prepared.model(1, both[1]).detach()
    assert int(head.kept) == both[1].count == len(output)
    torch.testing.assert_close(head.negatives[: len(output)], output[:, 2:18])  # the encodings of the first texts


def test_evaluating_remembers_nothing(files, tmp_path):
    from mtlcli.model.predict import predict_rows

    prepared = set_up(config(files, V3 | CONTRAST))
    step(prepared)
    before = {key: value.clone() for key, value in prepared.model.state_dict().items()}
    for task, name in enumerate(prepared.model.names):
        found = predict_rows(prepared.model, {task: prepared.dev[name]["dev"]}, prepared.device, prepared.autocast)[
            task
        ]
        assert np.isfinite(found.loss)
    assert all(torch.equal(value, before[key]) for key, value in prepared.model.state_dict().items())


def test_losses_asked_for_again_are_against_the_negatives_of_the_first_time(files):
    prepared = set_up(config(files, V3, only=("same",)))
    prepared.engine.balancer.needs = frozenset({"losses-after"})
    prepared.model.train()
    batches = [prepared.train[0].next() for _ in range(3)]
    prepared.engine.run([TaskLoss(0, tuple(batches[:1]))])
    one = [TaskLoss(0, tuple(batches[1:]))]
    combined = prepared.engine.run(one)
    kept = prepared.model.head(0).negatives.clone()
    torch.testing.assert_close(prepared.engine.passes.losses_after(one), combined.losses)  # the weights have not moved
    assert torch.equal(prepared.model.head(0).negatives, kept)


class Compare(Regularizer):
    """Adds how far an output is from another one."""

    def __init__(self, run, other: torch.Tensor) -> None:
        super().__init__(run)
        self.other = other

    def forward(self, forward):
        return forward.divergence(forward.output, self.other).sum()


def test_regularizers_compare_what_an_output_predicts_and_not_what_it_carries(files):
    prepared = set_up(config(files, V3, only=("same",)))
    batch, model = prepared.train[0].next(), prepared.model.eval()
    with torch.no_grad():
        hidden = model.hidden(0, model.inputs(0, batch))
        output = model.output(0, batch, hidden)
        elsewhere = output + torch.arange(output.shape[1]).ge(2)  # other encodings, the same logits
        compare = Compare(RunFacts(prepared.facts), elsewhere)
        arguments = (0, batch, hidden, output, random_states(batch.tokens.device), [compare])
        assert float(regularization(model, *arguments)) == 0.0
        compare.other = output + torch.arange(output.shape[1]).eq(1)  # another logit
        expected = Classes.named("no", "yes").divergence(output[:, :2], compare.other[:, :2]).sum()
        assert 0 < float(regularization(model, *arguments)) == pytest.approx(float(expected))


# Composed batches


def test_a_run_of_pairs_counts_its_passes_by_the_rarest_class(files):
    prepared = set_up(config(files, CONTRAST))
    rarest = int(np.bincount(prepared.tasks[0].splits["train"].gold["index"]).min())
    assert prepared.facts[0].batches == prepared.train[0].per_pass == rarest // 2
    assert prepared.plan.tasks[0].batch_size == 4
    assert prepared.train[0].next().gold["index"].tolist() == [0, 1, 0, 1]
    assert [one.texts for one in dry_run(prepared)] == [4, 8, 16]


def test_the_share_of_right_classes_can_be_watched(files, tmp_path):
    finished(config(files, CONTRAST, only=("tone",)), tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["tasks"]["tone"]["dev"]) == {"accuracy", "macro-f1"}


def test_a_class_with_one_row_is_named(files, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\nthe cat\tgood\na dog\tgood\nthe tree\tbad\n")
    changes = {"tone": {"head": "class-contrastive", "train": str(path)}}
    with pytest.raises(
        MtlError, match=r'^tasks\.tone\.head: .*two training rows of every class, but "bad" has 1; choose another head$'
    ):
        set_up(config(files, changes, only=("tone",)))


def test_scores_have_no_pairs_of_classes(files):
    changes = {"near": {"encoding": "cross", "head": "class-contrastive"}}
    with pytest.raises(
        MtlError, match=r"^tasks\.near\.head: needs batches of pairs-of-classes, but this task has no classes"
    ):
        set_up(config(files, changes))


def test_a_scheduler_that_chooses_rows_is_refused_beside_them(files):
    with pytest.raises(
        MtlError,
        match=r'^tasks\.tone\.head: "class-contrastive" needs batches of pairs-of-classes, and the scheduler "entropy"',
    ):
        set_up(config(files, CONTRAST, scheduler="entropy"))


def test_the_configuration_may_say_what_is_measured(files, tmp_path):
    chosen = config(files, {"near": {"metrics": "exact-match, pearson"}}, only=("near",))
    finished(chosen, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["tasks"]["near"]["dev"]) == ["exact-match", "pearson"]
    assert load_run(tmp_path / "run")[0].record["tasks"]["near"]["metrics"] == ["exact-match", "pearson"]
