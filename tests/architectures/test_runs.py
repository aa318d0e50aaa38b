"""Every built-in architecture in whole runs: with every kind of task, stopped and resumed, measured, used and started from."""

from operator import attrgetter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtlcli.config.layers import Layer, read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.registry import FAMILIES
from mtlcli.runs.configuration import inherited_sections
from mtlcli.runs.saved_model import load_run
from mtlcli.training.loop import train
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import set_up
from resuming import go, kept
from small import small_config, small_values, write_files

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted(FAMILIES["architectures"].built_in)
KINDS = ("tagging", "reading", "ratings", "multi-label", "several-columns")
"""Examples that together have every kind of task."""

QUICK = ("adapters", "lora")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("name", EVERY)
def test_a_run_stopped_within_an_epoch_ends_like_the_unbroken_one_bit_by_bit(files, tmp_path, name):
    sections = {"architecture": name, "balancer": "uncertainty"}
    norm = attrgetter("gradient_norm")
    whole = go(files, tmp_path / "whole", norm, **sections)
    broken = go(files, tmp_path / "broken", norm, stop_after=9, **sections)
    broken += go(files, tmp_path / "broken", norm, **sections)
    assert len(whole) == 12 and whole == broken
    first, second = kept(tmp_path / "whole"), kept(tmp_path / "broken")
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("example", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_task_takes_two_steps_and_is_decoded(name, example, monkeypatch):
    monkeypatch.chdir(ROOT / "examples")  # where the paths of the recipes begin
    flags = Layer({"architecture": name, "training": {"device": "cpu"}})
    run = set_up(resolve([read_recipe(ROOT / "examples" / f"{example}.yaml"), flags]))
    for _ in range(2):
        step = [TaskLoss(task, (source.next().to(run.device),)) for task, source in enumerate(run.train)]
        combined = run.engine.run(step)
        assert combined.losses.isfinite().all()
        run.optimizer.step()
    run.model.eval()
    for index in range(len(run.model.names)):
        batch = run.train[index].next()
        with torch.no_grad():
            assert len(run.model.decode(index, run.model(index, batch), batch)) == batch.count


@pytest.mark.parametrize("name", EVERY)
def test_a_saved_run_gives_what_the_trained_model_gave_and_its_encoder_is_plain(files, tmp_path, name):
    prepared = set_up(small_config(files, architecture=name, training={"steps": 3}))
    list(train(prepared, tmp_path / "run"))
    saved, _ = load_run(tmp_path / "run")
    prepared.model.eval()
    for task, source in enumerate(prepared.train):
        batch = source.next()
        with torch.no_grad():
            assert torch.equal(saved.model(task, batch), prepared.model(task, batch))
    plain = load_file(tmp_path / "run" / "encoder" / "model.safetensors")
    assert not [key for key in plain if "tasks" in key or "shared" in key]
    architecture = saved.model.architecture
    alone = (
        torch.equal(architecture.merged(None).get_input_embeddings().weight, plain["embeddings.word_embeddings.weight"])
        if (saved.record["encoder_alone"] is None)
        else None
    )
    assert alone in (True, None)


def test_what_a_frozen_encoder_needs_no_gradient_for_stays_as_it_was(files, tmp_path):
    prepared = set_up(small_config(files, architecture="adapters", training={"steps": 4}))
    before = {name: p.clone() for name, p in prepared.model.named_parameters()}
    list(train(prepared, tmp_path / "run"))
    changed = {name for name, p in prepared.model.named_parameters() if not torch.equal(p, before[name])}
    assert not [name for name in changed if name.startswith("architecture.encoder.")]
    assert {name.split(".")[2] for name in changed if name.startswith("architecture.tasks.")} == {
        "for_tone", "for_same", "for_near"
    }  # fmt: skip


def test_the_modules_of_a_task_go_on_in_a_run_of_other_tasks(files, tmp_path):
    list(train(set_up(small_config(files, architecture="adapters", training={"steps": 3})), tmp_path / "first"))
    values = small_values(files)
    near = {"near": values["tasks"]["near"], "other": values["tasks"]["tone"]}
    config = resolve(
        [Layer({"tasks": near, "init": str(tmp_path / "first"), "training": values["training"]})],
        inherit=inherited_sections,
    )
    prepared = set_up(config)
    stored = load_file(tmp_path / "first" / "heads.safetensors")
    key = "tasks.for_near.ffn_out.1.up.weight"
    assert torch.equal(prepared.model.architecture.state_dict()[key], stored[f"architecture.{key}"])
    assert (
        "the architecture's tasks of other start from random weights: that run has none that fit" in prepared.plan.notes
    )


def test_the_plan_says_what_is_added_and_what_is_trained(files):
    prepared = set_up(small_config(files, architecture="adapters"))
    heads = sum(p.numel() for p in prepared.model.heads.parameters())
    everything = sum(p.numel() for p in prepared.model.parameters())
    # 2 layers of 2 d m + m + d with d = 16, m = 1: 49 each
    assert prepared.plan.notes[-3:-1] == (
        "adapters adds 294 parameters to the encoder, 98 of each task",
        f"{294 + heads:,} of {everything:,} parameters are trainable ({100 * (294 + heads) / everything:.1f} %), heads included",
    )
    assert not [note for note in set_up(small_config(files)).plan.notes if "parameters" in note]


def test_each_task_s_features_are_its_own_and_gradient_methods_refuse_what_shares_nothing(files):
    prepared = set_up(small_config(files, architecture="lora"))
    assert prepared.model.pass_groups([0, 1, 2]) == [[0], [1], [2]]
    assert prepared.model.shared_parameters() == []
    shared = set_up(small_config(files, architecture={"name": "lora", "per": "shared"}, gradient_regularizer="pcgrad"))
    assert shared.model.pass_groups([0, 1, 2]) == [[0, 1, 2]]
    assert shared.engine.size == sum(p.numel() for p in shared.model.architecture.shared.parameters())
    assert shared.optimizer.param_groups[0]["peak_lr"] == 5e-4


def test_modules_learn_at_their_own_rate_and_the_encoder_at_its_own(files):
    architecture = {"name": "adapters", "backbone": "trained", "lr": 2e-4}
    groups = set_up(
        small_config(files, architecture=architecture, optimizer={"lr": 3e-5, "head_lr": 3e-4})
    ).optimizer.param_groups
    assert {group["name"].removesuffix(" vectors"): group["peak_lr"] for group in groups} == {
        "encoder": 3e-5, "architecture at 0.0002": 2e-4, "heads": 3e-4
    }  # fmt: skip
