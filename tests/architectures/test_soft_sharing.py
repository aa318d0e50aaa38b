"""Towers: every task its own encoder, while it is trained, saved, judged and used."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.data.readers import FileSource
from mtlcli.errors import MtlError
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.inference.predict import find_readings, predict
from mtlcli.inference.predictor import open_run
from mtlcli.runs.saved_model import load_run
from mtlcli.training.compatibility import check_combination
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config
from small import write_files as write_small_files
from trained import write_files

CPU = torch.device("cpu")
TASKS = {"tone": "classification", "stars": "regression", "same": "pair-classification"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps; `tone` and `stars` read one text in the same way."""
    place = tmp_path_factory.mktemp("towers")
    (place / "files").mkdir()
    files = write_files(place / "files")
    tasks = {
        name: {"kind": kind} | {split: str(files / f"{name}-{split}.tsv") for split in ("train", "dev", "test")}
        for name, kind in TASKS.items()
    }
    values = {
        "tasks": tasks,
        "encoder": {"name": "tiny", "dim": 32, "layers": 1, "attention_heads": 2, "intermediate": 32, "vocabulary": 120, "max_length": 32},
        "architecture": "soft-sharing",
        "regularizers": ["soft-sharing"],
        "training": {"steps": 6, "steps_per_epoch": 6, "batch_size": 8, "device": "cpu"},
    }  # fmt: skip
    prepared = set_up(resolve([Layer(values)]))
    for _ in train(prepared, place / "run"):
        pass
    return place / "run"


def test_towers_start_alike_and_learn_apart(folder):
    run, _ = load_run(folder)
    towers = run.model.architecture.towers()
    assert len(towers) == 3
    weights = [tower.get_input_embeddings().weight for tower in towers]
    assert len({one.data_ptr() for one in weights}) == 3
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


def test_the_first_tasks_tower_is_the_exported_encoder_and_the_others_lie_with_the_heads(folder):
    run, _ = load_run(folder)
    encoder = load_file(folder / "encoder" / "model.safetensors")
    key = "embeddings.word_embeddings.weight"
    assert torch.equal(encoder[key], run.model.architecture.encoder_of(0).state_dict()[key])
    rest = load_file(folder / "heads.safetensors")
    for task in (1, 2):
        stored = rest[f"architecture.others.{task - 1}.{key}"]
        assert torch.equal(stored, run.model.architecture.encoder_of(task).state_dict()[key])


def test_tasks_of_the_same_text_do_not_share_a_pass(folder):
    run, _ = load_run(folder)
    assert run.model.pass_groups([0, 1, 2]) == [[0], [1], [2]]


def test_a_prediction_comes_from_the_tasks_own_tower(folder):
    predictor, _ = open_run(folder).load(CPU)
    run = predictor.members[0][0].run
    source = FileSource(str(folder.parent / "files" / "tone-test.tsv"))
    readings = find_readings(run.record, source, ["tone", "stars"])
    assert [reading.tasks for reading in readings] == [(0, 1)]

    def scores() -> list[dict]:
        found = predict(predictor, source, readings, device=CPU, autocast=nullcontext())
        return [predictions for _, predictions in found]

    before = scores()
    with torch.no_grad():
        for parameter in run.model.architecture.encoder_of(1).parameters():
            parameter.mul_(0.5)
    after = scores()
    assert [one["tone"] for one in before] == [one["tone"] for one in after]
    assert [one["stars"] for one in before] != [one["stars"] for one in after]


def test_a_saved_run_measures_what_it_measured(folder):
    results = evaluate(folder, resamples=0).results
    stored = json.loads((folder / "results.json").read_text())["tasks"]
    for name in TASKS:
        for metric, found in results[name]["dev"].items():
            assert found.value == pytest.approx(stored[name]["dev"][metric]["value"], abs=1e-6)


@pytest.mark.parametrize("method", ["pcgrad", "graddrop", "gradnorm"])
def test_methods_that_compare_gradients_are_refused_for_there_is_nothing_shared(tmp_path, method):
    family = "balancer" if method == "gradnorm" else "gradient_regularizer"
    config = small_config(tmp_path, architecture="soft-sharing", **{family: method})
    with pytest.raises(MtlError, match=f"{method} compares the tasks' gradients on shared parameters"):
        check_combination(config)


@pytest.mark.parametrize("balancer", ["equal", "uncertainty", "tchebycheff"])
def test_methods_that_compare_losses_are_not(tmp_path, balancer):
    check_combination(small_config(tmp_path, architecture="soft-sharing", balancer=balancer))


def test_the_distance_without_towers_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(MtlError, match="choose --set architecture=soft-sharing"):
        check_combination(small_config(tmp_path, regularizers=["soft-sharing"]))


def test_the_plan_counts_as_shared_what_is_no_tasks_own(tmp_path):
    files = write_small_files(tmp_path / "files")
    plans = {name: set_up(small_config(files, architecture=name)).plan for name in ("hard-sharing", "soft-sharing")}
    one = plans["hard-sharing"].encoder_parameters
    assert plans["soft-sharing"].encoder_parameters == one
    heads = [task.parameters for task in plans["hard-sharing"].tasks]
    assert [task.parameters for task in plans["soft-sharing"].tasks] == [heads[0], heads[1] + one, heads[2] + one]
